//! The names of a connection's surroundings: device, cgroup, container, user and the like.
//!
//! Owns the [`Names`] trait, through which the reporter asks the platform for them. Looks
//! up nothing itself.

use crate::connection::{Needs, Sample};

/// Ends the path of a cgroup whose own path is too long: what stands before it is the path of
/// one above.
pub const CUT: &str = "/...";

/// Looks up names for the numbers of a connection, such as the index of its device.
pub trait Names {
    /// Called when an interval begins: names that may have changed are looked up again.
    fn refresh(&mut self);

    /// A cgroup was made: its path below the mount, and its id.
    fn cgroup_made(&mut self, id: u64, path: &str);

    /// The names that `needs` asks for. Looks up no others.
    fn place(&mut self, sample: &Sample, needs: Needs) -> Place<'_>;
}

/// The names of where a connection is, and whose it is; `None` for a name that is not
/// known or was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the device.
    pub interface: Option<&'a str>,
    /// Path of the cgroup below the cgroup v2 mount, beginning with `/`; may end with [`CUT`].
    pub cgroup: Option<&'a str>,
    /// Id of the container.
    pub container: Option<&'a str>,
    /// Name of the container.
    pub container_name: Option<&'a str>,
    /// Pod of the container: namespace/name.
    pub pod: Option<&'a str>,
    /// Unit of systemd.
    pub unit: Option<&'a str>,
    /// Path of the owner's program.
    pub exe: Option<&'a str>,
    /// Name of the user who made the socket.
    pub user: Option<&'a str>,
}

/// The names of a connection. Asks for none where `needs` has none.
pub fn place<'n>(names: &'n mut dyn Names, sample: &Sample, needs: Needs) -> Place<'n> {
    if needs.intersects(Needs::NAMES) { names.place(sample, needs) } else { Place::default() }
}

/// Knows no names.
pub struct NoNames;

impl Names for NoNames {
    fn refresh(&mut self) {}
    fn cgroup_made(&mut self, _: u64, _: &str) {}
    fn place(&mut self, _: &Sample, _: Needs) -> Place<'_> {
        Place::default()
    }
}
