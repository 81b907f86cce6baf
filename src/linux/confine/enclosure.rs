//! Landlock: which files a thread can open, and that it reaches no network and no other
//! process.
//!
//! Owns the rules. Only the calling thread is enclosed: a kernel before 7.0 knows no other
//! way. What it has open stays open, and what it only looks at (stat(2), O_PATH) is not
//! subject to Landlock.

use std::path::PathBuf;

use anyhow::Result;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::super::files::{Surroundings, surroundings};
use super::Part;

const NAME: &str = "Landlock";

/// The newest version whose rules were tried with tcptop (Linux 6.12).
const NEWEST: ABI = ABI::V6;

/// What a thread goes on reaching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::linux) struct Reach {
    /// Files and directories, with what is below, that it reads.
    pub(in crate::linux) reads: Vec<PathBuf>,
    /// Files that it writes. They may be moved away and made anew, so their directories are
    /// theirs to write to.
    pub(in crate::linux) appends: Vec<PathBuf>,
    /// Files that it replaces by others.
    pub(in crate::linux) replaces: Vec<PathBuf>,
    /// Sockets that the C library's user database may need: TCP, abstract Unix sockets.
    pub(in crate::linux) network: bool,
    /// It looks at what Landlock hides, whatever the rules are.
    pub(in crate::linux) not_at_all: Option<&'static str>,
}

/// Encloses this thread.
pub(super) fn enclose(reach: &Reach) -> Part {
    if let Some(why) = reach.not_at_all {
        return Part::partly(NAME, why);
    }
    restrict(reach).unwrap_or_else(|error| Part::no(NAME, format!("{error:#}")))
}

fn restrict(reach: &Reach) -> Result<Part> {
    let mut rules = Vec::new();
    // Where a path leads nowhere there is nothing to reach.
    let mut missing = String::new();
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in &reach.reads {
        match open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => rules.push(PathBeneath::new(fd, reading)),
            Err(error) => missing += &format!("; not {}: {}", path.display(), error.desc()),
        }
    }
    let files = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let appending = files | AccessFs::MakeReg;
    let appended = reach.appends.iter().map(|path| (path, appending));
    let replacing = reach.replaces.iter().map(|path| (path, appending | AccessFs::RemoveFile));
    for (path, access) in appended.chain(replacing) {
        match surroundings(path) {
            Ok(Surroundings::Directories(fds)) => {
                rules.extend(fds.map(|fd| PathBeneath::new(fd, access)));
            }
            Ok(Surroundings::Itself(fd)) => rules.push(PathBeneath::new(fd, access & files)),
            Ok(Surroundings::Open) => {}
            Err(error) => missing += &format!("; not {}: {error}", path.display()),
        }
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    if reach.network {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?.scope(Scope::Signal)?;
    } else {
        ruleset =
            ruleset.handle_access(AccessNet::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?;
    }
    let mut created = ruleset.create()?;
    for rule in rules {
        created = created.add_rule(rule)?;
    }
    let status = created.restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::NotEnabled => Part::no(NAME, "not enabled at the boot (lsm=landlock,…)"),
        LandlockStatus::NotImplemented => Part::no(
            NAME,
            "this kernel has none (Linux 5.13), or a filter of system calls refuses it",
        ),
        LandlockStatus::Available { effective_abi, .. } => {
            let version = effective_abi as u32;
            let parts = match version {
                ..4 => "files; not the network (Linux 6.7), not signals (Linux 6.12)",
                4..6 if reach.network => "files; not signals (Linux 6.12)",
                4..6 => "files, network; not signals (Linux 6.12)",
                6.. if reach.network => "files, signals; not the network, for the user database",
                6.. => "files, network, signals",
            };
            let detail = format!("version {version}: {parts}{missing}");
            match status.ruleset {
                RulesetStatus::FullyEnforced if !missing.is_empty() => Part::partly(NAME, detail),
                RulesetStatus::FullyEnforced => Part::yes(NAME, detail),
                RulesetStatus::PartiallyEnforced => Part::partly(NAME, detail),
                RulesetStatus::NotEnforced => Part::no(NAME, "the kernel has no use for the rules"),
            }
        }
    })
}
