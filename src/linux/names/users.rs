//! Names of users by their ids.

use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use super::cache::Cache;

/// The names that this host's user database has (getpwuid(3)). It may be slow: it can be
/// a server on the network.
#[derive(Debug)]
pub(super) struct Users(Cache<u32, Option<Box<str>>>);

impl Users {
    /// Looks at nothing yet.
    pub(super) fn new() -> Users {
        /// Of several hundred bytes each.
        const MOST: usize = 16_384;
        Users(Cache::new(MOST))
    }

    /// The name of a user; `None` where the database has none.
    pub(super) fn name(&mut self, uid: u32, now: Instant) -> Option<&str> {
        /// Names change seldom.
        const FRESH: Duration = Duration::from_secs(300);
        self.0
            .get(
                uid,
                now,
                |_| FRESH,
                |_| Some(User::from_uid(Uid::from_raw(uid)).ok()??.name.into()),
            )
            .as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_user_is_root_and_an_unknown_one_has_no_name() {
        let mut users = Users::new();
        let now = Instant::now();
        assert_eq!(users.name(0, now), Some("root"));
        assert_eq!(users.name(4_242_424_242, now), None);
    }
}
