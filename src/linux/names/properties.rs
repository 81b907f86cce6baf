//! What must hold for any text that a name is read from: what /proc shows of mounts and
//! processes, paths of cgroups, files of container runtimes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use super::{cgroups, containers, executables, runtimes, units};

/// A name that is found is in the text, and a name that a runtime writes is found.
pub(in super::super) fn names(data: &[u8]) {
    if let Some(mount) = cgroups::mount(data) {
        // `\134` and the like become one byte.
        assert!(mount.as_os_str().len() <= data.len());
    }
    if let Some((_, name)) = executables::start_and_name(data) {
        assert!(data.windows(name.len() + 2).any(|part| {
            part.first() == Some(&b'(')
                && part.last() == Some(&b')')
                && part[1..].starts_with(&name)
        }));
    }
    for named in [runtimes::docker(data), runtimes::annotated(data)].into_iter().flatten() {
        check(&named);
    }
    let text = String::from_utf8_lossy(data);
    if let Some(named) = runtimes::stored(data, &text) {
        check(&named);
    }
    if let Some((id, named)) = runtimes::log_name(&text) {
        assert!(text.ends_with(&format!("-{id}.log")));
        check(&named);
        let (pod, name) = (named.pod.unwrap_or_default(), named.name.unwrap_or_default());
        let parts: Vec<&str> = pod.split('/').chain([&*name]).collect();
        assert!(parts.iter().filter(|part| !part.is_empty()).all(|part| text.contains(*part)));
    }
    if let Some(unit) = units::unit(&text) {
        assert!(unit.len() < 256 && unit.is_ascii() && !unit.contains(['/', ' ']));
        assert!(text.contains(unit));
    }
    if let Some(id) = containers::container_id(&text) {
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{id}");
        assert!(text.contains(id));
    }
    containers::user(&text);
    written(&text);
    // A path as the kernel shows it in mountinfo.
    if !data.is_empty() && !data.contains(&0) {
        let mut line = b"1 2 3:4 / ".to_vec();
        for &byte in data {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
                _ => line.push(byte),
            }
        }
        line.extend(b" rw - cgroup2 none rw");
        assert_eq!(cgroups::mount(&line).as_deref(), Some(OsStr::from_bytes(data).as_ref()));
    }
}

/// What each runtime writes of a container with this name is found.
fn written(name: &str) {
    let sane = (1..=255).contains(&name.len());
    let found = |file: serde_json::Value, read: fn(&[u8]) -> Option<runtimes::Named>| {
        read(file.to_string().as_bytes()).and_then(|named| named.name).map(String::from)
    };
    let expected = sane.then(|| name.to_owned());
    assert_eq!(found(json!({"Name": format!("/{name}")}), runtimes::docker), expected);
    let annotations = json!({
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.sandbox-namespace": "n",
        "io.kubernetes.cri.sandbox-name": "p",
    });
    assert_eq!(found(json!({"annotations": annotations}), runtimes::annotated), expected);
    let list = json!([{"id": "other"}, {"id": "i", "names": [name, "second"]}]);
    let read = |list: &[u8]| runtimes::stored(list, "i");
    assert_eq!(found(list, read), expected);
}

fn check(named: &runtimes::Named) {
    let sane = |name: &str, most: usize| (1..=most).contains(&name.len());
    assert!(named.name.is_some() || named.pod.is_some());
    assert!(named.name.as_deref().is_none_or(|name| sane(name, 255)));
    assert!(named.pod.as_deref().is_none_or(|pod| sane(pod, 511) && pod.contains('/')));
}
