//! What the commands of the documentation may call.
//!
//! Real programs ([`REAL`]) read the output. Where a program would change this machine, or
//! needs what a test has not, a stand-in checks what can be checked without it
//! ([`STAND_INS`]). Nothing else is on the PATH, so any other program is an error.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use tempfile::TempDir;

use crate::markdown::root;
use crate::replay;

/// Run as they are.
const REAL: [&str; 8] = ["awk", "cat", "grep", "head", "jq", "sha256sum", "sort", "sqlite3"];

type Check = fn(&[String]) -> Result<(), String>;

/// A program, why it is not run, and what is checked instead.
const STAND_INS: [(&str, &str, Check); 12] = [
    ("apt-get", "installs; packages are checked where apt knows any", packages),
    ("cargo", "takes minutes; the file of --test, --bench or --example is there", cargo),
    ("clickhouse-client", "contrib/fleet/try.py runs the queries; the files are there", files),
    ("cp", "writes into /etc, make contrib-test does; the sources are there", sources),
    ("dpkg", "make dist-test installs it; make dist makes that name", artifact),
    ("duckdb", "run by Python's duckdb where that is installed", duckdb),
    ("ln", "writes into /var, make contrib-test does; a unit writes the file", linked),
    ("make", "builds, installs, measures; targets and variables are there", make),
    ("rpm", "make dist-test installs it; make dist makes that name", artifact),
    ("setcap", "the live test privilege::file_capabilities does", capabilities),
    ("systemctl", "make contrib-test does; the units are there", units),
    ("tar", "make dist-test unpacks it; make dist makes that name", artifact),
];

/// The options of other programs that the pages name.
pub const OPTIONS: [(&str, &str); 12] = [
    ("apt-get", "--no-install-recommends"),
    ("bandwhich", "--no-resolve"),
    ("benches/overhead", "--pairs --loads --subjects --sizes --seconds --ticks --arguments --help"),
    (
        "cargo",
        "--features --locked --test --lib --bench --example --no-default-features --no-run --ignored",
    ),
    ("cargo clippy", "--all-targets"),
    ("clickhouse-client", "--multiquery --param_since --param_until --queries-file"),
    ("node exporter", "--collector"),
    ("grep", "--line-buffered"),
    ("rustnet", "--headless --no-sandbox --no-uid-drop --no-resolve-dns"),
    ("sha256sum", "--check --ignore-missing"),
    ("systemctl", "--now"),
    ("tar", "--strip-components"),
];

/// The name that a variable of the environment gives to the PATH of this machine.
const WHOLE_PATH: &str = "TCPTOP_DOCS_PATH";

/// Runs this executable as the program of that name. `None` for its own.
pub fn stand_in(name: &str, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let words: Vec<String> =
        arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let result = match name {
        "tcptop" => return Some(replay::run(&words)),
        // What follows is run by another user, or elsewhere.
        "sudo" => instead(&words),
        "ssh" => instead(&words[1..]),
        _ => STAND_INS.iter().find(|(program, ..)| *program == name)?.2(&words),
    };
    Some(match result {
        Ok(()) => {
            println!("checked: {name} {}", words.join(" "));
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{name}: {reason}");
            ExitCode::FAILURE
        }
    })
}

/// Where the commands of a page run: a folder that keeps what they write until the next.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Place {
        let place = TempDir::new().expect("a folder");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("bin")).expect("a folder");
        fs::create_dir(at("docs")).expect("a folder");
        let own = std::env::current_exe().expect("this executable");
        let stand_ins = STAND_INS.iter().map(|(name, ..)| *name).chain(["tcptop", "sudo", "ssh"]);
        for name in stand_ins {
            symlink(&own, at("bin").join(name)).expect("a link");
        }
        for name in REAL {
            match which(name) {
                Some(path) => symlink(path, at("bin").join(name)).expect("a link"),
                None => panic!("{name} is not installed: scripts/install-deps.sh --test"),
            }
        }
        for name in ["contrib", "scripts"] {
            symlink(root().join(name), at(name)).expect("a link");
        }
        let mut sums = String::new();
        for name in artifacts() {
            fs::write(at(&name), b"").expect("a file");
            // That of the empty file.
            sums += &format!(
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  {name}\n"
            );
        }
        fs::write(at("SHA256SUMS"), sums).expect("a file");
        Place(place)
    }

    /// Runs a command, which must succeed, and print something or write a file.
    pub fn run(&self, command: &str) -> Result<(), String> {
        let before = self.written();
        let mut shell = Command::new("/bin/bash");
        shell.args(["-c", &format!("set -o pipefail\n{command}")]).current_dir(self.0.path());
        shell.env(WHOLE_PATH, std::env::var_os("PATH").unwrap_or_default());
        shell.env("PATH", self.0.path().join("bin")).stdin(Stdio::null());
        let output = shell.output().map_err(|error| error.to_string())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{}, {}", output.status, errors.trim()));
        }
        if output.stdout.is_empty() && before == self.written() {
            return Err(format!("prints nothing and writes no file {errors}"));
        }
        Ok(())
    }

    /// How many bytes are in the files that commands have written.
    fn written(&self) -> u64 {
        let mut bytes = 0;
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let about = fs::symlink_metadata(&path).expect("an entry");
                bytes += about.len();
                if about.is_dir() {
                    folders.push(path);
                }
            }
        }
        bytes
    }
}

/// The commands of a block, which can have several lines each. Comments are not commands.
pub fn commands(block: &str) -> Vec<String> {
    let is_whole = |text: &str| {
        let mut shell = Command::new("/bin/bash");
        shell.args(["-n", "-c", text]).stderr(Stdio::null());
        shell.status().expect("bash").success()
    };
    let mut commands = Vec::new();
    let mut command = String::new();
    for line in block.lines() {
        if command.is_empty() && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        command += line;
        if is_whole(&command) {
            commands.push(std::mem::take(&mut command));
        } else {
            command.push('\n');
        }
    }
    if !command.is_empty() {
        commands.push(command);
    }
    commands
}

/// Whether the Makefile has this target.
pub fn is_target(name: &str) -> bool {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    makefile.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os(WHOLE_PATH).or_else(|| std::env::var_os("PATH"))?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What `make dist` makes for a processor, as scripts/dist.sh names it.
fn artifacts() -> [String; 3] {
    let version = env!("CARGO_PKG_VERSION");
    [
        format!("tcptop_{version}-1_amd64.deb"),
        format!("tcptop-{version}-1.x86_64.rpm"),
        format!("tcptop-{version}-x86_64-linux.tar.gz"),
    ]
}

/// The rest of a command line. A script of this repository is not run: it is there.
fn instead(words: &[String]) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    if !program.contains('/') {
        return Err(Command::new(program).args(arguments).exec().to_string());
    }
    match Path::new(program).is_file() {
        true => Ok(()),
        false => Err(format!("there is no {program}")),
    }
}

fn make(words: &[String]) -> Result<(), String> {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    for word in words {
        match word.split_once('=') {
            None if is_target(word) => {}
            None => return Err(format!("no target {word}")),
            Some((name, value)) => {
                if !makefile.contains(&format!("$({name})")) {
                    return Err(format!("no variable {name}"));
                }
                if name == "ARGS" && words.iter().any(|word| word == "run" || word == "memory") {
                    let words = value.split_whitespace();
                    tcptop::cli::parse(std::iter::once("tcptop").chain(words))
                        .map_err(|error| error.to_string())?;
                }
            }
        }
    }
    Ok(())
}

fn cargo(words: &[String]) -> Result<(), String> {
    for pair in words.windows(2) {
        let folder = match pair[0].as_str() {
            "--test" => "tests",
            "--bench" => "benches",
            "--example" => "examples",
            _ => continue,
        };
        let path = root().join(folder).join(&pair[1]);
        if !path.is_dir() && !path.with_extension("rs").is_file() {
            return Err(format!("no {}", path.display()));
        }
    }
    Ok(())
}

fn packages(words: &[String]) -> Result<(), String> {
    let (install, names) = words.split_first().ok_or("nothing to do")?;
    if install != "install" || names.is_empty() {
        return Err("not install PACKAGE...".to_owned());
    }
    let Some(cache) = which("apt-cache") else { return Ok(()) };
    let known = Command::new(cache).arg("show").args(names).output().expect("apt-cache").stdout;
    let known = String::from_utf8_lossy(&known);
    let knows = |name: &&String| known.lines().any(|line| line == format!("Package: {name}"));
    // Where no list of packages was fetched, apt knows none.
    match names.iter().find(|name| !known.is_empty() && !knows(name)) {
        Some(unknown) => Err(format!("no package {unknown}")),
        None => Ok(()),
    }
}

/// The last argument of `-i` or `-xzf` is one of the files that `make dist` makes.
fn artifact(words: &[String]) -> Result<(), String> {
    let file = words.get(1).ok_or("no file")?;
    match artifacts().contains(file) {
        true => Ok(()),
        false => Err(format!("make dist makes no {file}")),
    }
}

/// The words that are paths in the repository are there.
fn files(words: &[String]) -> Result<(), String> {
    match words.iter().find(|word| word.starts_with("contrib/") && !Path::new(word).exists()) {
        Some(missing) => Err(format!("no {missing}")),
        None => Ok(()),
    }
}

fn sources(words: &[String]) -> Result<(), String> {
    let (_, sources) = words.split_last().ok_or("no files")?;
    match sources.iter().find(|source| !Path::new(source).is_file()) {
        Some(missing) => Err(format!("no {missing}")),
        None => Ok(()),
    }
}

fn units(words: &[String]) -> Result<(), String> {
    for unit in words.iter().skip(1).filter(|word| !word.starts_with('-')) {
        if !root().join("contrib").join(format!("{unit}.service")).is_file() {
            return Err(format!("no unit {unit}"));
        }
    }
    Ok(())
}

fn linked(words: &[String]) -> Result<(), String> {
    let file = words.get(1).and_then(|path| path.strip_prefix("/run/")).ok_or("not below /run")?;
    let unit = fs::read_to_string(root().join("contrib/tcptop-textfile.service")).expect("a unit");
    match unit.contains(&format!("%t/{file}")) {
        true => Ok(()),
        false => Err(format!("the unit does not write %t/{file}")),
    }
}

fn capabilities(words: &[String]) -> Result<(), String> {
    match words {
        [capabilities, path] if capabilities.ends_with("=ep") && path.ends_with("/bin/tcptop") => {
            Ok(())
        }
        _ => Err("not CAPABILITIES=ep .../bin/tcptop".to_owned()),
    }
}

/// `duckdb -c QUERY`, as Python's module runs it.
fn duckdb(words: &[String]) -> Result<(), String> {
    let [option, query] = words else { return Err("not -c QUERY".to_owned()) };
    let python = |script: &str| {
        let mut python = Command::new(which("python3")?);
        python.args(["-c", script, query]).env("PATH", std::env::var_os(WHOLE_PATH)?);
        python.output().ok()
    };
    if option != "-c" || !python("import duckdb").is_some_and(|output| output.status.success()) {
        eprintln!("left out: python3 has no duckdb here");
        return Ok(());
    }
    let script = "import duckdb, sys; found = duckdb.sql(sys.argv[1]); assert found.shape[0]; \
                  print(found)";
    let output = python(script).ok_or("no python3")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
