//! The open brackets of a text that is nearly JSON.

/// The open brackets. Of the outermost ones the kinds are known.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    pub(super) depth: u64,
    /// One bit for each of the outermost levels: 1 for an object.
    objects: u128,
}

impl Nesting {
    const KNOWN: u64 = u128::BITS as u64;

    pub(super) fn open(&mut self, object: bool) {
        if self.depth < Self::KNOWN {
            let bit = 1 << self.depth;
            self.objects = if object { self.objects | bit } else { self.objects & !bit };
        }
        self.depth += 1;
    }

    fn is_object(&self, level: u64) -> bool {
        self.objects >> level & 1 == 1
    }

    /// Returns whether the value at `level` is an element of an array.
    pub(super) fn is_array_around(&self, level: u64) -> bool {
        (2..=Self::KNOWN).contains(&level) && !self.is_object(level - 2)
    }

    /// Closes the innermost bracket of a kind, and the ones inside it. Returns false if it was not the innermost one of
    /// all, or if there is none.
    pub(super) fn close(&mut self, object: bool) -> bool {
        let Some(top) = self.depth.checked_sub(1) else { return false };
        if top >= Self::KNOWN || self.is_object(top) == object {
            self.depth = top;
            return true;
        }
        if let Some(level) = (0..top).rev().find(|level| self.is_object(*level) == object) {
            self.depth = level;
        }
        false
    }
}
