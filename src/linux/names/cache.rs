//! Keeps what was costly to find, for a time and up to a number of entries.
//!
//! Pure: the time comes from the caller.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::Hash;
use std::time::{Duration, Instant};

use rustc_hash::FxBuildHasher;

/// Values by key. When it is full it forgets what was not asked for in this interval,
/// and everything if that is not enough: a host that starts processes and containers for
/// weeks does not fill the memory.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: HashMap<K, Entry<V>, FxBuildHasher>,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    found: Instant,
    asked: Instant,
}

impl<K: Copy + Eq + Hash, V> Cache<K, V> {
    /// An empty one, for at most `most` values.
    pub(super) fn new(most: usize) -> Cache<K, V> {
        Cache { entries: HashMap::default(), most }
    }

    /// The value of `key`. Calls `find` where there is none, or where it is older than
    /// `fresh` says; then `find` gets the old value.
    pub(super) fn get(
        &mut self,
        key: K,
        now: Instant,
        fresh: impl FnOnce(&V) -> Duration,
        find: impl FnOnce(Option<&V>) -> V,
    ) -> &V {
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let entry = match self.entries.entry(key) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry { value: find(None), found: now, asked: now })
            }
            hash_map::Entry::Occupied(occupied) => {
                let entry = occupied.into_mut();
                if now.saturating_duration_since(entry.found) > fresh(&entry.value) {
                    entry.value = find(Some(&entry.value));
                    entry.found = now;
                }
                entry.asked = now;
                entry
            }
        };
        &entry.value
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.asked >= now);
        // If few could go, the next calls would search for others again and again.
        if self.entries.len() > self.most / 4 * 3 {
            self.entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_value_is_found_again_when_it_is_old() {
        let start = Instant::now();
        let mut cache = Cache::new(10);
        let mut ask = |after: u32, value: u32| {
            let mut old = None;
            let found = *cache.get(
                'k',
                start + after * SECOND,
                |_| SECOND,
                |before| {
                    old = before.copied();
                    value
                },
            );
            (found, old)
        };
        assert_eq!(ask(0, 1), (1, None));
        assert_eq!(ask(1, 2), (1, None), "fresh");
        assert_eq!(ask(2, 3), (3, Some(1)));
        assert_eq!(ask(3, 4), (3, None), "its age counts from the last time it was found");
    }

    #[test]
    fn it_never_grows_beyond_its_limit_and_keeps_what_is_in_use() {
        let start = Instant::now();
        let mut cache = Cache::new(100);
        for second in 0..50 {
            let now = start + second * SECOND;
            // One that is always in use, and 20 new ones a second.
            for key in (0..1).chain(1 + second * 20..21 + second * 20) {
                let found = *cache.get(key, now, |_| 1000 * SECOND, |_| second);
                assert_eq!(found, if key == 0 { 0 } else { second });
            }
            assert!(cache.entries.len() <= 100);
        }
        let now = start + 60 * SECOND;
        (0..1000).for_each(|key| {
            cache.get(key, now, |_| SECOND, |_| key);
        });
        assert!(cache.entries.len() <= 100, "even within one interval");
    }
}
