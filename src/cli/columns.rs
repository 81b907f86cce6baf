//! The options whose values are columns: their parsers, which also know the names for
//! completions, and the check of several of them together.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};

use super::conflict;
use crate::output::columns::{COLUMNS, column};
use crate::output::grouped;
use crate::settings::{ColumnList, Settings, Sort};

/// Parses a value that consists of names, and lists the names for completions.
#[derive(Clone, Copy)]
pub(super) struct Named<T> {
    parse: fn(&str) -> Result<T, String>,
    names: fn() -> Vec<&'static str>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Named<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        text: &OsStr,
    ) -> Result<T, clap::Error> {
        let parse = self.parse;
        TypedValueParser::parse_ref(&move |text: &str| parse(text), command, argument, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}

/// The value of `--columns` that asks for the list of all columns.
pub(super) const LIST_ALL: &str = "help";

/// Parses `--columns`.
pub(super) const LISTS: Named<ColumnList> = Named {
    parse: |text| {
        let list: ColumnList = text.parse()?;
        if list == ColumnList::from(LIST_ALL) {
            return Ok(list);
        }
        match list.names.iter().find(|name| !is_column(name)) {
            None => Ok(list),
            Some(name) => Err(unknown_column(name)),
        }
    },
    names: || column_names().chain([LIST_ALL]).collect(),
};

/// Parses `--sort`.
pub(super) const ORDERS: Named<Sort> = Named {
    parse: |text| match Sort::from(text) {
        Sort::Column(name) if !is_column(&name) => Err(unknown_column(&name)),
        sort => Ok(sort),
    },
    names: || Sort::WORDS.into_iter().chain(column_names()).collect(),
};

/// Parses a key of `--by`.
pub(super) const KEYS: Named<String> = Named {
    parse: |text| match grouped::key_names().any(|name| name == text) {
        true => Ok(text.to_owned()),
        false => {
            let names: Vec<&str> = grouped::key_names().collect();
            let meant = suggestion(text, grouped::key_names());
            Err(format!("there is no such key{meant}; there are {}", names.join(", ")))
        }
    },
    names: || grouped::key_names().collect(),
};

/// True for a column of connections or of groups.
fn is_column(name: &str) -> bool {
    column(name).is_some() || grouped::key_names().chain(grouped::TOTALS).any(|known| known == name)
}

/// The names of the columns of connections, and those that only groups have.
fn column_names() -> impl Iterator<Item = &'static str> {
    let of_groups = grouped::TOTALS.into_iter().filter(|name| column(name).is_none());
    COLUMNS.iter().map(|column| column.name).chain(of_groups)
}

fn unknown_column(name: &str) -> String {
    let meant = suggestion(name, column_names());
    format!("there is no column '{name}'{meant}; tcptop --columns help lists all")
}

/// What `name` probably stands for, as the middle of a message; empty where nothing is like it.
fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    meant(name, known).map(|name| format!(", did you mean '{name}'")).unwrap_or_default()
}

/// The one of these that `name` probably stands for. People type titles of lines (`PKTS_IN`),
/// keys of groups (`process`) and other cases, and they mistype.
fn meant<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    /// The least likeness, of 1.
    const LIKE: f64 = 0.85;
    let name = name.to_lowercase();
    let is_title = |known: &str| {
        let title = column(known).map(|column| column.title.to_lowercase());
        let [of_name, of_known] = [&name, known].map(grouped::column_of_key);
        title.as_ref() == Some(&name) || of_name == Some(known) || of_known == Some(&name)
    };
    let likeness = |known: &str| match known == name {
        true => 3.0,
        false if is_title(known) => 2.0,
        false => strsim::jaro_winkler(&name, known),
    };
    let best = known.map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= LIKE).map(|(_, known)| known)
}

/// Refuses columns that the rows do not have: groups have others than connections.
pub(super) fn check(settings: &Settings) -> Result<(), clap::Error> {
    let Settings { rows, groups, output, .. } = settings;
    let list = output.columns.iter().flat_map(|list| &list.names);
    let sort = match &rows.sort {
        Sort::Column(name) => Some(name),
        _ => None,
    };
    let mut named = list.chain(sort);
    if groups.by.is_empty() {
        return match named.find(|name| column(name).is_none()) {
            Some(name) => {
                let names = COLUMNS.iter().map(|column| column.name);
                let instead = meant(name, names).map(|name| format!("; connections have '{name}'"));
                let instead = instead.unwrap_or_default();
                Err(conflict(&format!("only groups have a column '{name}': --by KEYS{instead}")))
            }
            None => Ok(()),
        };
    }
    let twice = |name: &&String| groups.by.iter().filter(|key| key == name).count() > 1;
    if let Some(name) = groups.by.iter().find(twice) {
        return Err(conflict(&format!("--by: '{name}' is in it twice")));
    }
    let known: Vec<&str> = grouped::column_names(&groups.by).collect();
    match named.find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let meant = suggestion(name, known.iter().copied());
            let known = known.join(", ");
            Err(conflict(&format!(
                "these groups have no column '{name}'{meant}; they have {known}"
            )))
        }
        None => Ok(()),
    }
}
