//! The only build step: compiles bpf/ and vmlinux/ to a skeleton in OUT_DIR. Does nothing
//! without the feature `linux`.

#[cfg(not(feature = "linux"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}

#[cfg(feature = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(feature = "linux")]
mod linux {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    use anyhow::{Context, Result};
    use libbpf_cargo::SkeletonBuilder;

    const SOURCE: &str = "bpf/tcptop.bpf.c";

    /// Programs that benches/ compares tcptop with.
    const REFERENCE: &str = "benches/overhead/reference.bpf.c";

    /// Otherwise the type information names the directory of the sources, and each directory
    /// makes another binary.
    const NO_PATHS: &str = "-ffile-compilation-dir=.";

    pub(crate) fn main() -> Result<()> {
        skeleton(SOURCE, "tcptop.skel.rs")?;
        if env::var_os("CARGO_FEATURE_BENCH_REFERENCE").is_some() {
            skeleton(REFERENCE, "reference.skel.rs")?;
            println!("cargo:rerun-if-changed={REFERENCE}");
        }

        // Names the files and not the folders: an editor's backup file must not cause a
        // rebuild.
        for folder in ["bpf", "vmlinux"] {
            for entry in fs::read_dir(Path::new(folder))
                .with_context(|| format!("failed to list {folder}"))?
            {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
                    println!("cargo:rerun-if-changed={}", path.display());
                }
            }
        }
        println!("cargo:rerun-if-env-changed=CLANG");
        println!("cargo:rustc-env=TCPTOP_CLANG={}", clang_version().unwrap_or_default());
        Ok(())
    }

    /// The first number of clang's version. Tests compare the sizes of programs, which
    /// differ by compiler.
    fn clang_version() -> Option<String> {
        let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
        let words = Command::new(clang).arg("--version").output().ok()?.stdout;
        let words = String::from_utf8(words).ok()?;
        let (_, version) = words.split_once("version ")?;
        Some(version.split('.').next()?.to_owned())
    }

    fn skeleton(source: &str, name: &str) -> Result<()> {
        let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
        SkeletonBuilder::new()
            .source(source)
            .clang_args(["-Ibpf", "-Ivmlinux", "-Wall", "-Werror", "-mcpu=v3", NO_PATHS])
            .reference_obj(true)
            // Nobody reads the generated code, so it is not formatted: cat leaves it
            // unchanged. rustup's rustfmt fails where the component is not installed.
            .rustfmt("cat")
            .build_and_generate(out.join(name))
            .with_context(|| {
                format!(
                    "failed to compile {source}; it needs clang 14 or newer (`make deps` installs it)"
                )
            })
    }
}
