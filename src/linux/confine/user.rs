//! The user that tcptop runs as once it has started.
//!
//! Owns the choice, and the change of user, groups and privileges of this process. Called
//! while there is one thread: those that it starts later are the same user.

use std::ffi::OsString;

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, User, geteuid, getuid, setgroups, setresgid, setresuid};

use super::{Had, Part, reason};

/// The user who owns nothing: what the kernel calls an id that it cannot express
/// (`DEFAULT_OVERFLOWUID`), and `nobody` almost everywhere.
const NOBODY: u32 = 65534;

/// The user to become, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The present one, for this reason.
    Stay(String),
    Become {
        uid: u32,
        gid: u32,
        why: String,
    },
}

impl Choice {
    /// The user of `--setuid` (`asked`). Without it, where root has started tcptop and
    /// nothing needs root (`for_root` names what does), the user who called sudo(8), or
    /// nobody.
    ///
    /// # Errors
    /// Where there is no such user.
    pub(super) fn of(asked: Option<&str>, for_root: Option<&str>) -> Result<Choice> {
        if let Some(name) = asked {
            let (uid, gid) = look_up(name)?;
            return Ok(Choice::Become { uid, gid, why: "--setuid".to_owned() });
        }
        if !geteuid().is_root() {
            return Ok(Choice::Stay("not root".to_owned()));
        }
        if let Some(what) = for_root {
            return Ok(Choice::Stay(format!("{what} is root's; --setuid USER chooses another")));
        }
        // Somebody else than root could set the variables of a setuid program.
        let variable = |name: &str| std::env::var_os(name).filter(|_| getuid().is_root());
        Ok(of_sudo(variable))
    }
}

/// The user in the variables of sudo(8), otherwise nobody.
fn of_sudo(variable: impl Fn(&str) -> Option<OsString>) -> Choice {
    let number = |name| -> Option<u32> { variable(name)?.to_str()?.parse().ok() };
    let valid = |id: &u32| *id != 0 && *id != u32::MAX;
    match number("SUDO_UID").filter(valid) {
        Some(uid) => {
            let gid = number("SUDO_GID").filter(valid).unwrap_or(NOBODY);
            Choice::Become { uid, gid, why: "called sudo".to_owned() }
        }
        None => Choice::Become { uid: NOBODY, gid: NOBODY, why: "nobody".to_owned() },
    }
}

/// As chown(1) does: a name comes before a number.
fn look_up(name: &str) -> Result<(u32, u32)> {
    let number = || name.parse().ok().filter(|id| *id != u32::MAX);
    match User::from_name(name) {
        Ok(Some(user)) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Ok(None) => match number() {
            Some(uid) => {
                let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
                Ok((uid, user.map_or(NOBODY, |user| user.gid.as_raw())))
            }
            None => {
                Err(anyhow!("--setuid: no user is named '{name}' here; `getent passwd` lists them"))
            }
        },
        Err(error) => Err(anyhow!("--setuid: failed to look up the user '{name}': {error}")),
    }
}

/// Becomes the chosen user, of no other group, with those of the present capabilities that
/// are in `kept`. From then on execve(2) gives nothing, no capability comes back, and no
/// process of the same user can trace this one.
///
/// # Errors
/// Where the user was asked for by name, and the kernel refuses.
pub(super) fn take(choice: &Choice, kept: &[Capability]) -> Result<Vec<Part>> {
    // These two take CAP_SETPCAP, which the change of the user may take away.
    let secure = match lock_securebits() {
        Ok(()) => Part::yes("securebits", "locked: uid 0 gives no capabilities"),
        Err(error) => Part::no("securebits", reason(error)),
    };
    let bounding = match caps::clear(None, CapSet::Bounding) {
        Ok(()) => Part::yes("bounding set", "empty"),
        Err(_) => Part::no("bounding set", "needs CAP_SETPCAP"),
    };
    let user = match choice {
        Choice::Stay(why) if geteuid().is_root() => Part::no("user", format!("root: {why}")),
        Choice::Stay(why) => Part::yes("user", format!("{}: {why}", geteuid())),
        Choice::Become { uid, gid, why } => match change(*uid, *gid, secure.had == Had::Yes) {
            Ok(()) if *uid == 0 => Part::no("user", format!("root: {why}")),
            Ok(()) => Part::yes("user", format!("{uid}, group {gid}: {why}")),
            Err(error) if why == "--setuid" => {
                bail!("--setuid: cannot become user {uid} ({}); start tcptop as root", error.desc())
            }
            Err(error) => Part::no("user", format!("root: cannot become {uid}: {}", error.desc())),
        },
    };
    let nothing_new = match prctl::set_no_new_privs() {
        Ok(()) => Part::yes("no_new_privs", "execve gives no privileges"),
        Err(error) => Part::no("no_new_privs", reason(error)),
    };
    // Also without a change of the user.
    let hidden = match prctl::set_dumpable(false) {
        Ok(()) => Part::yes("undumpable", "other processes of the user cannot trace it"),
        Err(error) => Part::no("undumpable", reason(error)),
    };
    keep_only(kept).context("failed to give up privileges")?;
    Ok(vec![user, nothing_new, hidden, secure, bounding])
}

/// Changes the user and drops the other groups, but keeps the permitted capabilities.
/// `secure` says that [`lock_securebits`] succeeded: then all are kept anyway.
fn change(uid: u32, gid: u32, secure: bool) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if !secure {
        prctl::set_keepcaps(true)?;
    }
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// Makes root's uid an ordinary one, for good (capabilities(7)).
fn lock_securebits() -> Result<(), Errno> {
    // linux/securebits.h: each is followed by the bit that locks it.
    const NO_ROOT: libc::c_ulong = 0b11;
    const NO_SETUID_FIXUP: libc::c_ulong = 0b11 << 2;
    const KEEP_CAPS_LOCKED: libc::c_ulong = 0b10 << 4;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 0b11 << 6;
    let bits = NO_ROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE;
    // SAFETY: prctl(2) takes numbers here.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }).map(drop)
}

/// Gives up every capability of this thread except `kept`. Threads that it starts later
/// have no others either.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn keep_only(kept: &[Capability]) -> Result<()> {
    let held = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = held.into_iter().filter(|held| kept.contains(held)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_of_sudo_comes_before_nobody() {
        let become_of = |variables: &'static [(&str, &str)]| {
            let choice = of_sudo(|name| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            });
            let Choice::Become { uid, gid, .. } = choice else { panic!("{choice:?}") };
            (uid, gid)
        };
        assert_eq!(become_of(&[("SUDO_UID", "1000"), ("SUDO_GID", "1001")]), (1000, 1001));
        assert_eq!(become_of(&[("SUDO_UID", "1000")]), (1000, NOBODY));
        let nobody = (NOBODY, NOBODY);
        assert_eq!(become_of(&[]), nobody);
        for bad in ["0", "", "-1", "x", "4294967295", "4294967296"] {
            let variables: &'static [(&str, &str)] =
                Box::leak(Box::new([("SUDO_UID", bad), ("SUDO_GID", "7")]));
            assert_eq!(become_of(variables), nobody, "{bad}");
        }
    }

    #[test]
    fn users_by_name_and_number() {
        assert_eq!(look_up("root").ok(), Some((0, 0)));
        assert_eq!(look_up("0").ok(), Some((0, 0)));
        assert_eq!(look_up("4000123456").ok(), Some((4_000_123_456, NOBODY)));
        for bad in ["no such user", "4294967295", "-1"] {
            let error = look_up(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--setuid: no user is named '{bad}'")), "{error}");
        }
    }
}
