//! Keys of several names, owned and borrowed: a look-up allocates nothing.

use std::hash::{Hash, Hasher};

use hashbrown::Equivalent;

use super::Name;

/// A composed key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key<const N: usize>(pub(crate) [Name; N]);

/// The same key, borrowed.
pub(crate) struct Borrowed<'a, const N: usize>(pub(crate) [&'a str; N]);

impl<const N: usize> Hash for Key<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|part| (**part).hash(state));
    }
}
impl<const N: usize> Hash for Borrowed<'_, N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|part| part.hash(state));
    }
}
impl<const N: usize> Equivalent<Key<N>> for Borrowed<'_, N> {
    fn equivalent(&self, key: &Key<N>) -> bool {
        self.0.iter().zip(&key.0).all(|(a, b)| *a == &**b)
    }
}
