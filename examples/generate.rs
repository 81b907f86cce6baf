//! Writes tcptop's manual page and completions below a directory, as `make install` and the
//! packages have them below `share/`. Needs no libbpf, so that cross builds have them too.
//! Run it with `cargo run --example generate --no-default-features DIRECTORY`.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context;
use tcptop::cli::Generated;

fn main() -> anyhow::Result<()> {
    let share = PathBuf::from(env::args_os().nth(1).context("usage: generate DIRECTORY")?);
    for (what, path) in [
        (Generated::Man, "man/man8/tcptop.8"),
        (Generated::Bash, "bash-completion/completions/tcptop"),
        (Generated::Zsh, "zsh/site-functions/_tcptop"),
        (Generated::Fish, "fish/vendor_completions.d/tcptop.fish"),
    ] {
        let path = share.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, what.text())
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
