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
            Err(format!("there is no such key; there are {}", names.join(", ")))
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
    format!("there is no column '{name}'; tcptop --columns help lists all")
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
            Some(name) => Err(conflict(&format!("only groups have a column '{name}': --by KEYS"))),
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
            let known = known.join(", ");
            Err(conflict(&format!("these groups have no column '{name}'; they have {known}")))
        }
        None => Ok(()),
    }
}
