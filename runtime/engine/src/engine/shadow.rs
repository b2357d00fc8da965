// SPDX-License-Identifier: GPL-2.0-only
//! Get-or-allocate of shadow variables.
//!
//! In: a key, and how to make a new variable. Out: the one variable of that key. Hard because memory is allocated without
//! the lock and the constructor runs with it: of several callers all but one throw their memory away unseen.

/// A table of shadow variables: found without a lock, changed under one.
pub trait Shadows {
    /// What variables are found by.
    type Key: Copy;
    /// A variable in the table.
    type Var: Copy;
    /// Memory for one, not in the table.
    type Fresh;
    /// Why a constructor refused.
    type Error;

    /// Finds one. Also called with the lock held.
    fn find(&self, key: Self::Key) -> Option<Self::Var>;
    /// Memory for one.
    fn allocate(&self, key: Self::Key) -> Option<Self::Fresh>;
    /// Gives it back.
    fn discard(&self, fresh: Self::Fresh);
    /// Fills it in; the lock is held.
    fn construct(&self, fresh: &mut Self::Fresh) -> Result<(), Self::Error>;
    /// Puts it into the table; the lock is held.
    fn insert(&self, fresh: Self::Fresh) -> Self::Var;
    /// Calls `f` with the lock held.
    fn locked<R>(&self, f: impl FnOnce() -> R) -> R;
    /// Says that the constructor refused.
    fn refused(&self, key: Self::Key, error: Self::Error);
}

/// Whether the variable was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing<V> {
    /// It was.
    Found(V),
    /// It is new.
    Made(V),
    /// There is none and none could be made.
    Failed,
}

enum Locked<T: Shadows> {
    Lost(T::Var, T::Fresh),
    Won(T::Var),
    Refused(T::Fresh, T::Error),
}

/// The variable of `key`, made if there is none.
pub fn get_or_alloc<T: Shadows>(table: &T, key: T::Key) -> Existing<T::Var> {
    if let Some(var) = table.find(key) {
        return Existing::Found(var);
    }
    let Some(mut fresh) = table.allocate(key) else { return Existing::Failed };
    let outcome = table.locked(|| match table.find(key) {
        Some(var) => Locked::Lost(var, fresh),
        None => match table.construct(&mut fresh) {
            Ok(()) => Locked::<T>::Won(table.insert(fresh)),
            Err(error) => Locked::Refused(fresh, error),
        },
    });
    match outcome {
        Locked::Won(var) => Existing::Made(var),
        Locked::Lost(var, fresh) => {
            table.discard(fresh);
            Existing::Found(var)
        }
        Locked::Refused(fresh, error) => {
            table.discard(fresh);
            table.refused(key, error);
            Existing::Failed
        }
    }
}
