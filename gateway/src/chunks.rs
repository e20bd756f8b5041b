//! A growing array whose elements never move: for what a shard keeps of each connection.
//!
//! A `Vec` that grows copies all of it at once, milliseconds for a million connections, and leaves up to half of its memory
//! unused. Here memory is taken in chunks, and a chunk's pages become resident only when elements are appended.

use std::ops::{Index, IndexMut};

/// Elements of a chunk. A little below a power of two: mimalloc adds a quarter to an allocation of exactly that size, and with
/// transparent huge pages all of it is resident (measured: 1.25 at 8192 elements of 64 bytes, 1.00 at 8191).
const CHUNK: usize = (1 << 13) - 16;

/// See the module text.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// All full but the last, which has the capacity of a chunk.
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Chunks<T> {
    /// Elements in it.
    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Appends an element; its index is the `len` before.
    pub(crate) fn push(&mut self, element: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(element),
            Some(_) | None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(element);
                self.chunks.push(chunk);
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// All elements in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T: Clone> Chunks<T> {
    /// Appends copies of `element` until there are `len`.
    pub(crate) fn grow_to(&mut self, len: usize, element: &T) {
        while self.len() < len {
            self.push(element.clone());
        }
    }
}

impl<T> Index<usize> for Chunks<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vec_and_never_moves() {
        let mut chunks = Chunks::default();
        assert_eq!((chunks.len(), chunks.get(0)), (0, None));
        chunks.push(0usize);
        let first: *const usize = &raw const chunks[0];
        chunks.grow_to(2 * CHUNK + 5, &7);
        chunks[CHUNK] = 8;
        assert_eq!(chunks.len(), 2 * CHUNK + 5);
        assert_eq!((chunks[0], chunks[CHUNK - 1], chunks[CHUNK]), (0, 7, 8));
        assert_eq!((chunks.get(2 * CHUNK + 4), chunks.get(2 * CHUNK + 5)), (Some(&7), None));
        assert_eq!(chunks.get_mut(3 * CHUNK), None);
        assert!(std::ptr::eq(first, &raw const chunks[0]));
        assert_eq!(chunks.iter().sum::<usize>(), 7 * (2 * CHUNK + 3) + 8);
    }
}
