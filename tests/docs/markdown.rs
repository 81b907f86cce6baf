//! Pages of Markdown: their blocks, links, headings and code.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page, by its path from the root.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// A fenced block.
pub struct Block<'a> {
    pub language: &'a str,
    pub text: &'a str,
}

/// All pages at the root and in these folders.
pub fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    for folder in ["", "docs", "benches"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(Page::read(&path));
            }
        }
    }
    assert!(found.len() > 12, "{} found", found.len());
    found
}

impl Page {
    pub fn read(path: &Path) -> Page {
        let text = fs::read_to_string(path).unwrap_or_default();
        let path = path.strip_prefix(root()).unwrap_or(path);
        Page { path: path.to_string_lossy().into_owned(), text }
    }

    /// Pages for users, and the one for those who work on tcptop. (benches/README.md runs
    /// the benchmark.)
    pub fn has_commands(&self) -> bool {
        ["README.md", "CONTRIBUTING.md"].contains(&&*self.path) || self.path.starts_with("docs/")
    }

    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        self.text.split("```").skip(1).step_by(2).map(|block| {
            let (language, text) = block.split_once('\n').unwrap_or((block, ""));
            Block { language: language.trim(), text }
        })
    }

    /// The text outside of fenced blocks.
    fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// What stands between backquotes.
    fn code(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The targets of links, without those in code.
    pub fn links(&self) -> impl Iterator<Item = String> {
        let prose: String = self.prose().split('`').step_by(2).collect::<Vec<_>>().join("code");
        let targets = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or(""));
        targets.map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.lines().filter_map(|line| {
            let title = line.trim_start_matches('#');
            (title.len() < line.len()).then(|| title.strip_prefix(' '))?
        });
        let anchor = |title: &str| {
            let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
            title.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
        };
        headings.map(anchor).collect()
    }

    /// The long options that it names, in code and in blocks.
    pub fn options(&self) -> Vec<String> {
        let blocks = self.blocks().map(|block| block.text.to_owned());
        let code: Vec<String> = self.code().into_iter().chain(blocks).collect();
        let is_part =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ['-', '_'].contains(&c);
        let mut found = Vec::new();
        for word in code.iter().flat_map(|code| code.split([' ', '\n', '(', '"', '\'', '[', '='])) {
            let Some(name) = word.strip_prefix("--") else { continue };
            let name: String = name.chars().take_while(|&c| is_part(c)).collect();
            if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                found.push(format!("--{name}"));
            }
        }
        found
    }

    /// The targets of `make` that its prose names.
    pub fn targets(&self) -> Vec<String> {
        let code = self.code();
        let lines = code.iter().map(|code| code.replace('\n', " "));
        lines
            .filter_map(|code| {
                let words = code.strip_prefix("make ")?.to_owned();
                let target = words.split(' ').find(|word| !word.contains('='))?;
                Some(target.to_owned())
            })
            .collect()
    }
}
