//! The kernel side's sources: each header stands on its own.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libbpf_rs::libbpf_sys::API_HEADERS;
use tempfile::TempDir;

/// libbpf's headers, where `#include <bpf/...>` finds them.
fn libbpf_headers() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("bpf")).expect("a folder");
    for (name, text) in API_HEADERS {
        fs::write(folder.path().join("bpf").join(name), text).expect("a header");
    }
    folder
}

/// Compiles a source that includes this header and nothing else, with the flags of
/// build.rs; clang's messages if it fails.
fn parse(header: &Path, libbpf: &Path) -> Result<(), String> {
    let clang = std::env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut compiler = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-Ibpf"])
        .args(["-Ivmlinux", "-fsyntax-only", "-x", "c", "-"])
        // A header's functions are called by the files that include it.
        .arg("-Wno-unused-function")
        .arg("-I")
        .arg(libbpf)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("clang starts");
    let source = format!("#include \"{}\"\n", header.display());
    compiler.stdin.take().expect("a pipe").write_all(source.as_bytes()).expect("clang reads");
    let output = compiler.wait_with_output().expect("clang ends");
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn headers() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let mut headers: Vec<PathBuf> = fs::read_dir(folder)
        .expect("bpf/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension() == Some(OsStr::new("h")))
        .collect();
    headers.sort();
    headers
}

#[test]
fn every_header_parses_on_its_own() {
    let libbpf = libbpf_headers();
    let headers = headers();
    assert!(headers.len() > 10, "{headers:?}");
    for header in headers {
        if let Err(words) = parse(&header, libbpf.path()) {
            panic!("{} does not parse on its own:\n{words}", header.display());
        }
    }
}

/// The check above can fail.
#[test]
fn a_header_that_needs_another_one_is_found() {
    let libbpf = libbpf_headers();
    let header = libbpf.path().join("needy.h");
    fs::write(&header, "static inline int of(struct tcptop_event *event) { return event->kind; }")
        .expect("a header");
    let words = parse(&header, libbpf.path()).expect_err("it does not say where the struct is");
    assert!(words.contains("tcptop_event"), "{words}");
}
