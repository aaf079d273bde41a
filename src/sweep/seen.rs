//! The instances that a sweep has counted. EC2 may show one twice: on one page, in two reservations, or on two pages, because
//! others came and went meanwhile.

use std::collections::{HashMap, HashSet};

use crate::model::{Instance, InstanceId};

/// Instances by their ids as numbers: 17 bytes each in a table that is at least half full by then. A million take 36 MB, and
/// 54 MB while the table grows.
#[derive(Debug, Default)]
pub(super) struct SeenInstances(HashSet<u128>);

impl SeenInstances {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The instances of these rows that were not seen before, each once: of two rows the one that shows tags.
    pub(super) fn leave_out_of(&self, rows: Vec<Instance>) -> Vec<Instance> {
        let mut indices: HashMap<u128, usize> = HashMap::with_capacity(rows.len());
        let mut news: Vec<Instance> = Vec::with_capacity(rows.len());
        for row in rows {
            let key = key(&row.id);
            match indices.get(&key) {
                _ if self.0.contains(&key) => {}
                None => {
                    indices.insert(key, news.len());
                    news.push(row);
                }
                Some(index) if news[*index].tags.is_empty() => news[*index] = row,
                Some(_) => {}
            }
        }
        news
    }

    pub(super) fn extend<'a>(&mut self, ids: impl Iterator<Item = &'a InstanceId>) {
        self.0.extend(ids.map(key));
    }
}

/// An id as a number: up to 17 hexadecimal digits take 68 bits, and their count, which zeros in front make part of the id,
/// stands above them.
fn key(id: &InstanceId) -> u128 {
    let digits = id.as_str().bytes().skip("i-".len());
    digits.fold(0, |key, digit| {
        let count = (key >> 68) + 1;
        let number = (key & ((1 << 68) - 1)) << 4;
        (count << 68) | number | u128::from(char::from(digit).to_digit(16).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_ids_are_different_numbers() {
        let ids = ["i-0", "i-00", "i-1", "i-01", "i-10", "i-fffffffffffffffff", "i-ffffffff"];
        let keys: HashSet<_> = ids.map(|id| key(&InstanceId::parse(id).unwrap())).into();
        assert_eq!(keys.len(), ids.len());
    }

    #[test]
    fn a_million_instances_take_36_megabytes() {
        let mut seen = SeenInstances::default();
        let ids = (0..1_000_000).map(|n| InstanceId::parse(&format!("i-{n:017x}")).unwrap());
        seen.0.extend(ids.map(|id| key(&id)));
        assert_eq!(seen.len(), 1_000_000);
        // A table has a power of two of places, 7 in 8 of them used at most; a place is a key and a byte.
        let places = (seen.0.capacity() * 8 / 7).next_power_of_two();
        assert_eq!(places * (size_of::<u128>() + 1), 35_651_584);
    }
}
