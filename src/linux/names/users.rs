//! The users of this host.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{self, Uid};

use super::cache::Cache;

/// A user, as far as tcptop asks.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::linux) struct User {
    /// The number.
    pub(in crate::linux) uid: u32,
    /// The name, as at login.
    pub(in crate::linux) name: String,
    /// The home directory.
    pub(in crate::linux) home: PathBuf,
}

/// Whether this is the static binary. The C library would have to load the modules that
/// /etc/nsswitch.conf names, which are for the C library of the host, so users are those of
/// /etc/passwd.
const STATIC: bool = cfg!(target_feature = "crt-static");

/// Where users are looked up, for messages.
pub(in crate::linux) const DATABASE: &str = if STATIC {
    "/etc/passwd lists them (the static tcptop asks no other database; numbers work)"
} else {
    "`getent passwd` lists them"
};

/// The user with this name; `None` where the host's database has none. The database may be
/// slow: it can be a server on the network.
///
/// # Errors
/// Why the database cannot be asked.
pub(in crate::linux) fn by_name(name: &str) -> Result<Option<User>, Errno> {
    if STATIC {
        return in_file(|user| user.name == name);
    }
    Ok(unistd::User::from_name(name)?.map(User::from))
}

/// The user with this number, as [`by_name`].
pub(super) fn by_id(uid: u32) -> Result<Option<User>, Errno> {
    if STATIC {
        return in_file(|user| user.uid == uid);
    }
    Ok(unistd::User::from_uid(Uid::from_raw(uid))?.map(User::from))
}

impl From<unistd::User> for User {
    fn from(user: unistd::User) -> User {
        User { uid: user.uid.as_raw(), name: user.name, home: user.dir }
    }
}

/// The first user of /etc/passwd that is wanted.
fn in_file(wanted: impl Fn(&User) -> bool) -> Result<Option<User>, Errno> {
    let text = match fs::read("/etc/passwd") {
        Ok(text) => text,
        Err(error) => match error.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
            Errno::ENOENT => return Ok(None),
            errno => return Err(errno),
        },
    };
    Ok(String::from_utf8_lossy(&text).lines().filter_map(entry).find(wanted))
}

/// A line of /etc/passwd (passwd(5)): `name:password:uid:gid:gecos:home:shell`.
fn entry(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    Some(User { uid, name, home: fields.nth(2)?.into() })
}

/// The names of users, kept for a while.
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
        self.0.get(uid, now, |_| FRESH, |_| Some(by_id(uid).ok()??.name.into())).as_deref()
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

    /// Where the C library's database is the file alone (tests run where that is so), both
    /// ways find the same users.
    #[test]
    fn the_file_has_the_same_users_as_the_c_library() {
        let root = unistd::User::from_uid(Uid::from_raw(0)).unwrap().map(User::from);
        assert_eq!(in_file(|user| user.uid == 0).unwrap(), root);
        assert_eq!(in_file(|user| user.name == "root").unwrap(), root);
        assert_eq!(in_file(|user| user.name == "no such user").unwrap(), None);
    }

    #[test]
    fn lines_that_are_no_users_are_left_out() {
        let ada = User { uid: 1000, name: "ada".into(), home: "/home/ada".into() };
        assert_eq!(entry("ada:x:1000:1000:Ada,,,:/home/ada:/bin/sh"), Some(ada));
        for line in
            ["", "# ada:x:1:1::/:", "+::::::", "ada:x:many:1::/:", "ada:x:1000", ":x:1:1::/:"]
        {
            assert_eq!(entry(line), None, "{line}");
        }
    }
}
