//! Which rows come first, and how many.
//!
//! Owns `--sort` and `--top`. Pure: takes the rows of an interval, orders them and
//! drops those after the first N. `output` decides what a row looks like, and knows the
//! values of columns: a caller that orders by one passes a function for its [`Key`].

use std::cmp::Ordering;
use std::net::SocketAddr;

use crate::settings::Sort;
use crate::table::ConnectionRecord;

/// What a row is ordered by where that is a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// The highest comes first.
    Number(f64),
    /// From A to Z.
    Text(String),
    /// The lowest comes first, IPv4 before IPv6.
    Address(SocketAddr),
}

/// The order of two keys. What is not known comes last.
pub fn compare_keys(a: &Option<Key>, b: &Option<Key>) -> Ordering {
    match (a, b) {
        (Some(Key::Number(a)), Some(Key::Number(b))) => b.total_cmp(a),
        (Some(Key::Text(a)), Some(Key::Text(b))) => a.cmp(b),
        (Some(Key::Address(a)), Some(Key::Address(b))) => a.cmp(b),
        // All keys of one column are of the same kind.
        _ => b.is_some().cmp(&a.is_some()),
    }
}

/// The order of two rows. The keys decide between rows of equal value, so that the same
/// rows always come in the same order.
fn compare(sort: &Sort, a: &ConnectionRecord, b: &ConnectionRecord) -> Ordering {
    let (first, second) = (&a.sample, &b.sample);
    let order = match sort {
        Sort::Rate => b.rate().total_cmp(&a.rate()),
        Sort::Bytes => second.counters.bytes().cmp(&first.counters.bytes()),
        Sort::Rtt => second.rtt_us.cmp(&first.rtt_us),
        // A connection that is older than tcptop has the time of tcptop's start here.
        Sort::Age => first.key.born_ns.cmp(&second.key.born_ns),
        Sort::Column(_) => Ordering::Equal,
    };
    order.then_with(|| first.key.cmp(&second.key))
}

/// Orders `rows` and keeps the first `top` of them. `key` is asked once for each row, and
/// only where the order is that of a column.
pub fn arrange(
    rows: &mut Vec<&ConnectionRecord>,
    sort: &Sort,
    top: Option<usize>,
    mut key: impl FnMut(&ConnectionRecord) -> Option<Key>,
) {
    if !matches!(sort, Sort::Column(_)) {
        keep(rows, top, |a, b| compare(sort, a, b));
        return;
    }
    let mut keyed: Vec<_> = rows.iter().map(|&row| (key(row), row)).collect();
    keep(&mut keyed, top, |a, b| compare_keys(&a.0, &b.0).then_with(|| compare(sort, a.1, b.1)));
    rows.clear();
    rows.extend(keyed.iter().map(|&(_, row)| row));
}

/// Orders `rows` and keeps the first `top` of them. Returns the others.
///
/// With `top`, only the rows that stay are sorted: to find the first ten of 100,000
/// takes one pass.
pub fn keep<T>(
    rows: &mut Vec<T>,
    top: Option<usize>,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Vec<T> {
    let mut rest = Vec::new();
    if let Some(top) = top.filter(|&top| top < rows.len()) {
        if top > 0 {
            rows.select_nth_unstable_by(top - 1, &compare);
        }
        rest = rows.split_off(top);
    }
    rows.sort_unstable_by(&compare);
    rest
}

/// Empties a list of rows and returns it for other rows, with its memory. With this an
/// interval allocates only when it has more rows than every interval before.
pub fn reuse<'new>(mut rows: Vec<&ConnectionRecord>) -> Vec<&'new ConnectionRecord> {
    rows.clear();
    // Collecting a vector's own iterator keeps its memory.
    rows.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixtures::{record, tcp};
    use proptest::prelude::*;

    /// (object, born_ns, bytes, rtt, rate)
    fn row(
        (object, born_ns, bytes, rtt_us, rate): (u64, u64, u64, Option<u32>, f64),
    ) -> ConnectionRecord {
        let mut sample = tcp();
        sample.key.object = object;
        sample.key.born_ns = born_ns;
        sample.counters.bytes_in = bytes;
        sample.counters.bytes_out = 0;
        sample.rtt_us = rtt_us;
        record(sample, rate, 0.0)
    }

    fn order(records: &[ConnectionRecord], sort: Sort, top: Option<usize>) -> Vec<u64> {
        let mut rows: Vec<_> = records.iter().collect();
        arrange(&mut rows, &sort, top, |row| {
            Some(Key::Number(row.sample.counters.bytes_in as f64))
                .filter(|_| row.sample.key.object != 3)
        });
        rows.iter().map(|row| row.sample.key.object).collect()
    }

    #[test]
    fn the_highest_comes_first() {
        let rows = [
            (1, 30, 500, None, 1.0),
            (2, 10, 700, Some(9), 5.0),
            (3, 20, 600, Some(80), 0.0),
            (4, 20, 600, None, 5.0),
        ]
        .map(row);
        assert_eq!(order(&rows, Sort::Rate, None), [2, 4, 1, 3]);
        assert_eq!(order(&rows, Sort::Bytes, None), [2, 3, 4, 1]);
        assert_eq!(order(&rows, Sort::Rtt, None), [3, 2, 1, 4]);
        assert_eq!(order(&rows, Sort::Age, None), [2, 3, 4, 1]);
        let column = Sort::Column("any".to_owned());
        assert_eq!(order(&rows, column.clone(), None), [2, 4, 1, 3], "3 has no value");
        assert_eq!(order(&rows, column, Some(1)), [2]);
        assert_eq!(order(&rows, Sort::Rate, Some(2)), [2, 4]);
        assert_eq!(order(&rows, Sort::Rate, Some(9)), [2, 4, 1, 3]);
        assert_eq!(order(&[], Sort::Rate, Some(1)), [] as [u64; 0]);
    }

    #[test]
    fn the_list_keeps_its_memory() {
        let record = row((1, 1, 1, None, 0.0));
        let rows = vec![&record; 100];
        let (memory, capacity) = (rows.as_ptr(), rows.capacity());
        let rows = reuse(rows);
        assert_eq!((rows.len(), rows.as_ptr(), rows.capacity()), (0, memory, capacity));
    }

    proptest! {
        #[test]
        fn top_is_the_head_of_the_whole_order(
            values in proptest::collection::vec((0u64..9, 0u64..3, 0u64..3, any::<Option<u32>>(), 0.0..9.0), 0..40),
            top in 1usize..45,
        ) {
            let rows: Vec<_> = values.into_iter().map(row).collect();
            for sort in [Sort::Rate, Sort::Bytes, Sort::Rtt, Sort::Age, Sort::Column(String::new())] {
                let mut whole = order(&rows, sort.clone(), None);
                whole.truncate(top);
                prop_assert_eq!(order(&rows, sort, Some(top)), whole);
            }
        }
    }
}
