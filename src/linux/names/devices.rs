//! Names of network devices by their index.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

/// The devices of tcptop's network namespace. An index is valid only in its namespace.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Inode number of tcptop's network namespace; 0 where it is not known.
    netns: u32,
    names: HashMap<u32, Option<String>, FxBuildHasher>,
}

impl Devices {
    /// Those of the namespace with this inode number.
    pub(super) fn new(netns: u32) -> Devices {
        Devices { netns, names: HashMap::default() }
    }

    /// The name of a device; `None` for index 0 and for another namespace.
    pub(super) fn name(&mut self, index: u32, netns: u32) -> Option<&str> {
        if index == 0 || netns != self.netns {
            return None;
        }
        self.names.entry(index).or_insert_with_key(|&index| look_up(index)).as_deref()
    }

    /// Forgets all: a device can be renamed, and an index can be used for another device.
    pub(super) fn refresh(&mut self) {
        self.names.clear();
    }
}

fn look_up(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_loopback_device() {
        let mut devices = Devices::new(7);
        assert_eq!(devices.name(1, 7), look_up(1).as_deref());
        assert_eq!(devices.name(1, 8), None, "an index of another namespace");
        assert_eq!(devices.name(0, 7), None);
    }
}
