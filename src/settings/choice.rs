//! The values of one filter option: what may match and, after `!`, what must not.

/// One value of a filter option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<T> {
    /// The value.
    pub value: T,
    /// True where it was typed after `!`: what matches it is left out.
    pub not: bool,
}

impl<T> Choice<T> {
    /// A value to show.
    pub fn plain(value: T) -> Choice<T> {
        Choice { value, not: false }
    }

    /// A value to leave out.
    pub fn not(value: T) -> Choice<T> {
        Choice { value, not: true }
    }

    /// The same choice of another value, such as the index of a device for its name.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<U, E>(&self, change: impl FnOnce(&T) -> Result<U, E>) -> Result<Choice<U>, E> {
        Ok(Choice { value: change(&self.value)?, not: self.not })
    }
}

/// Whether an option with these values lets something pass: any of the plain values must
/// match, and none of the negated ones. An option without plain values needs no match.
#[inline]
pub fn admits<T>(choices: &[Choice<T>], mut matches: impl FnMut(&T) -> bool) -> bool {
    let (mut wanted, mut found) = (false, false);
    for Choice { value, not } in choices {
        match (not, matches(value)) {
            (true, true) => return false,
            (true, false) => {}
            (false, hit) => (wanted, found) = (true, found | hit),
        }
    }
    found || !wanted
}

/// The parser of an option whose values may follow a `!`. `parse` gets the value alone.
pub(super) fn choice<T: Clone + 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Choice<T>, String> + Clone + Send + Sync + 'static {
    move |text| match text.strip_prefix('!') {
        Some(rest) => parse(rest).map(Choice::not),
        None => parse(text).map(Choice::plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_of_the_plain_values_and_none_of_the_negated(
            choices in proptest::collection::vec((0u8..6, any::<bool>()), 0..6), subject in 0u8..6,
        ) {
            let list: Vec<_> = choices.iter().map(|&(value, not)| Choice { value, not }).collect();
            let (not, plain): (Vec<(u8, bool)>, Vec<_>) = choices.iter().partition(|(_, not)| *not);
            let expected = (plain.is_empty() || plain.iter().any(|choice| choice.0 == subject))
                && !not.iter().any(|choice| choice.0 == subject);
            prop_assert_eq!(admits(&list, |&value| value == subject), expected);
        }
    }

    #[test]
    fn a_value_can_follow_a_mark() {
        let parse = choice(|text| text.parse::<u8>().map_err(|_| format!("bad {text}")));
        assert_eq!(parse("7"), Ok(Choice::plain(7)));
        assert_eq!(parse("!7"), Ok(Choice::not(7)));
        assert_eq!(parse("!!7"), Err("bad !7".to_owned()));
        assert_eq!(parse("!"), Err("bad ".to_owned()));
        let mapped = Choice::not(7).try_map(|value| Ok::<_, ()>(value + 1));
        assert_eq!(mapped, Ok(Choice::not(8)));
    }
}
