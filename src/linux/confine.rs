//! What tcptop can no longer do once it counts.
//!
//! Owns the order in which a run gives up what root may do, and the report about it. Each
//! part is tried; what the kernel or the privileges do not allow is reported and is no
//! error. Changes nothing that the run still needs: what its columns and files take is kept,
//! and named.
//!
//! ```text
//! first, in one thread          user       uid, groups, no_new_privs, securebits, bounding set
//! then in each thread           enclosure  Landlock; its capabilities
//! once all sockets are listed   calls      seccomp, for all threads at once
//! ```

mod calls;
mod enclosure;
#[cfg(test)]
mod inside;
mod user;

use std::fmt::Display;

use anyhow::Result;
use caps::Capability;
use crossbeam_channel::{Receiver, Sender};
use serde::Serialize;

use super::{names, privileges};
use crate::connection::Needs;
use crate::settings::Settings;
use calls::Uses;
pub(super) use enclosure::Reach;
use user::Choice;

/// What the collector keeps: it reads maps and runs iterators.
const COLLECTOR: [Capability; 1] = [Capability::CAP_BPF];

/// What the start takes: loading and attaching, other network namespaces, priority, limits.
const START: [Capability; 7] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_RESOURCE,
];

/// A part of the confinement, and whether it could be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    #[serde(rename = "part")]
    pub(super) name: &'static str,
    pub(super) had: Had,
    /// What that means here, or why not.
    pub(super) detail: String,
}

/// Whether a part could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Had {
    Yes,
    Partly,
    No,
}

impl Had {
    /// The word in the doctor's report.
    pub(super) fn word(self) -> &'static str {
        match self {
            Had::Yes => "yes",
            Had::Partly => "partly",
            Had::No => "no",
        }
    }
}

impl Part {
    /// As a message to the user.
    pub(super) fn line(&self) -> String {
        let Part { name, had, detail } = self;
        match had {
            Had::No => format!("not confined: {name}: {detail}"),
            Had::Partly => format!("confined in part: {name}: {detail}"),
            Had::Yes => format!("confined: {name}: {detail}"),
        }
    }

    fn yes(name: &'static str, detail: impl Into<String>) -> Part {
        Part { name, had: Had::Yes, detail: detail.into() }
    }

    fn partly(name: &'static str, detail: impl Into<String>) -> Part {
        Part { name, had: Had::Partly, detail: detail.into() }
    }

    fn no(name: &'static str, detail: impl Into<String>) -> Part {
        Part { name, had: Had::No, detail: detail.into() }
    }
}

/// Parts that the user does not want (`--without`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Without {
    landlock: bool,
    seccomp: bool,
}

impl Without {
    /// Adds the part of this name; false where there is none.
    pub(super) fn add(&mut self, name: &str) -> bool {
        match name {
            "landlock" => self.landlock = true,
            "seccomp" => self.seccomp = true,
            _ => return false,
        }
        true
    }
}

/// The confinement of a run, made step by step.
pub(super) struct Confinement {
    parts: Vec<Part>,
    /// What the reporter keeps, and what for.
    kept: Vec<(Capability, &'static str)>,
    reach: Reach,
    uses: Uses,
    without: Without,
    entered: (Sender<Part>, Receiver<Part>),
}

impl Confinement {
    /// Takes the user that the settings ask for, or the one with the least rights. Must be
    /// called before a file is opened and a thread is started.
    ///
    /// # Errors
    /// Where the user of `--setuid` does not exist, or the kernel refuses it.
    pub(super) fn begin(
        settings: &Settings,
        needs: Needs,
        without: Without,
    ) -> Result<Confinement> {
        let asked = settings.more.setuid.as_deref();
        let (log, textfile) = (&settings.output.log, &settings.groups.textfile);
        let for_root = match (log, textfile) {
            (Some(_), _) => Some("the FILE of --log"),
            (None, Some(_)) => Some("the FILE of --textfile"),
            (None, None) => None,
        };
        let choice = Choice::of(asked, for_root)?;
        let mut kept = names::capabilities(needs);
        let mut start = START.to_vec();
        start.extend(kept.iter().map(|(capability, _)| *capability));
        if for_root.is_some() && matches!(choice, Choice::Stay(_)) {
            // After logrotate has moved the log, opening its path again needs this
            // capability if another user owns the directory. So does each new textfile.
            kept.push((Capability::CAP_DAC_OVERRIDE, "files in directories of other users"));
            start.extend([Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH]);
        }
        let parts = user::take(&choice, &start)?;
        kept.retain(|(capability, _)| privileges::has(*capability));
        let ready = settings.more.ready_file.iter();
        let mut reach = names::reach(needs);
        reach.appends = log.iter().chain(ready).cloned().collect();
        reach.replaces = textfile.iter().cloned().collect();
        if log.is_some() {
            // The name of who has locked the file.
            reach.reads.push("/proc".into());
        }
        let uses = Uses {
            reads: !reach.reads.is_empty() || reach.not_at_all.is_some(),
            writes: !reach.appends.is_empty() || !reach.replaces.is_empty(),
            devices: needs.contains(Needs::INTERFACE),
            users: reach.network,
            homes: needs.intersects(names::NAMED),
        };
        Ok(Confinement {
            parts,
            kept,
            reach,
            uses,
            without,
            entered: crossbeam_channel::unbounded(),
        })
    }

    /// For the thread that looks up names and writes files.
    pub(super) fn reporter(&self) -> Entry {
        let kept = self.kept.iter().map(|(capability, _)| *capability).collect();
        self.entry(kept, self.reach.clone())
    }

    /// For a thread that opens nothing and needs nothing.
    pub(super) fn idle(&self) -> Entry {
        self.entry(Vec::new(), Reach::default())
    }

    fn entry(&self, kept: Vec<Capability>, reach: Reach) -> Entry {
        let landlock = !self.without.landlock;
        Entry { kept, reach, landlock, entered: self.entered.0.clone() }
    }

    /// The collector's part, and that of all threads. Waits until the others have entered:
    /// then they need no more of what the filter refuses.
    ///
    /// # Errors
    /// Where the kernel does not take capabilities back.
    pub(super) fn finish(self) -> Result<Vec<Part>> {
        self.entry(COLLECTOR.to_vec(), Reach::default()).enter()?;
        let Confinement { mut parts, kept, uses, without, entered: (own, entered), .. } = self;
        drop(own);
        parts.push(capabilities(&kept));
        // The reporter's may be less than the others'.
        let mut enclosures: Vec<Part> = entered.into_iter().collect();
        enclosures.sort_by(|one, other| one.detail.cmp(&other.detail));
        enclosures.dedup();
        parts.append(&mut enclosures);
        if !without.seccomp {
            parts.push(calls::restrict(uses));
        }
        Ok(parts)
    }
}

/// A thread's way into the confinement.
pub(super) struct Entry {
    kept: Vec<Capability>,
    reach: Reach,
    landlock: bool,
    entered: Sender<Part>,
}

impl Entry {
    /// Confines this thread.
    ///
    /// # Errors
    /// Where the kernel does not take capabilities back.
    pub(super) fn enter(self) -> Result<()> {
        if self.landlock {
            let _ = self.entered.send(enclosure::enclose(&self.reach));
        }
        user::keep_only(&self.kept)
    }
}

fn capabilities(kept: &[(Capability, &str)]) -> Part {
    let reporter = kept.iter().map(|(capability, what)| format!(", {capability} ({what})"));
    let reporter: String = reporter.collect();
    Part::yes("capabilities", format!("all but CAP_BPF (maps, iterators){reporter}"))
}

/// Gives up all but the collector's capabilities in this thread alone.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn keep_collectors() -> Result<()> {
    user::keep_only(&COLLECTOR)
}

fn reason(error: impl Display) -> String {
    error.to_string()
}
