//! The systemd unit in a path of a cgroup.
//!
//! Pure: systemd names a unit's cgroup after the unit, so the path says it all.

/// The unit of the processes in a cgroup, by systemd's own rule (`cg_path_get_unit()`,
/// which sd_pid_get_unit(3) uses): the first part of the path that is not a slice, if it
/// is the name of a unit. A user's units are in the cgroup of `user@UID.service`, and
/// that is their unit.
pub(super) fn unit(path: &str) -> Option<&str> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let unit = parts.map(unescape).find(|part| !is_slice(part))?;
    (is_unit(unit) && !unit.ends_with(".slice")).then_some(unit)
}

/// systemd puts `_` before a name that could be taken for a file of the kernel, such as
/// `cpu.service` (`cg_escape()`).
fn unescape(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice") && !name.contains('@') && is_unit(name)
}

/// Whether a unit can have this name, also as an instance of a template
/// (`unit_name_is_valid()` with PLAIN and INSTANCE).
fn is_unit(name: &str) -> bool {
    /// `UNIT_NAME_MAX`, with its NUL.
    const MOST: usize = 256;
    /// systemd.unit(5); `unit_type_table`.
    const TYPES: [&str; 11] = [
        "service",
        "socket",
        "target",
        "device",
        "mount",
        "automount",
        "swap",
        "timer",
        "path",
        "slice",
        "scope",
    ];
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"@:-_.\\".contains(&byte);
    let instance = match stem.split_once('@') {
        Some((template, instance)) => !template.is_empty() && !instance.is_empty(),
        None => !stem.is_empty(),
    };
    name.len() < MOST && TYPES.contains(&kind) && instance && stem.bytes().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd's own tests of `cg_path_get_unit()` (src/test/test-cgroup-util.c) and
    /// `unit_name_is_valid()` (src/test/test-unit-name.c) expect it.
    #[test]
    fn the_first_part_that_is_not_a_slice() {
        for (path, expected) in [
            ("/system.slice/foobar.service/sdfdsaf", Some("foobar.service")),
            ("/system.slice/getty@tty5.service", Some("getty@tty5.service")),
            ("/system.slice/getty@tty5.service/aaa/bbb", Some("getty@tty5.service")),
            ("/system.slice/getty@tty5.service/", Some("getty@tty5.service")),
            ("/system.slice/getty@tty6/tty5", None),
            ("sadfdsafsda", None),
            ("/system.slice/getty####@tty6/xxx", None),
            ("/system.slice/system-waldo.slice/foobar.service/sdfdsaf", Some("foobar.service")),
            ("/system.slice/system-waldo.slice/_cpu.service/sdfdsaf", Some("cpu.service")),
            ("/user.slice/user-1000.slice/user@1000.service/server.service", {
                Some("user@1000.service")
            }),
            ("/user.slice/user-1000.slice/user@.service/server.service", None),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/docker-3b1c.scope/init", Some("docker-3b1c.scope")),
            ("/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service", {
                Some("serial-getty@ttyS0.service")
            }),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-3b1c.scope", {
                Some("cri-containerd-3b1c.scope")
            }),
            ("", None),
            ("/", None),
            ("/system.slice", None),
            ("/docker/3b1c/system.slice/ssh.service", None),
            ("/system.slice/a@b.slice/c.service", None),
            ("/system.slice/@x.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/x.slice.d/y.service", None),
            ("/system.slice/esc\u{1b}[2J.service", None),
            ("/system.slice/a b.service", None),
            ("/system.slice/a\nb.service", None),
            ("/system.slice/caf\u{e9}.service", None),
        ] {
            assert_eq!(unit(path), expected, "{path}");
        }
        let long = |length: usize| format!("/{}.service", "x".repeat(length - ".service".len()));
        assert!(unit(&long(255)).is_some());
        assert_eq!(unit(&long(256)), None);
    }
}
