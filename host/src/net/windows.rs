//! How many bytes a connection may send that no service has read yet: its receive windows. HTTP/2
//! keeps these bytes, and no budget counts them, so their sum is bounded here: the first
//! connections of an address have wide windows, and the others the least that HTTP/2 knows. It
//! opens no connection, and reads nothing.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::source::Source;

/// The receive windows of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Bytes of one call that may be in transit, or here and not read.
    pub stream_bytes: u32,
    /// The same of all calls of the connection.
    pub connection_bytes: u32,
}

/// The windows of a connection without a place among the wide ones. HTTP/2 has no smaller one for a
/// connection. A call that does not read leaves half of it to the others.
pub(super) const NARROW: Windows = Windows { stream_bytes: 32 << 10, connection_bytes: 65_535 };

/// Which connections of a port have which windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// The wide ones.
    pub wide: Windows,
    /// Connections that may have wide ones at a time.
    pub wide_max: usize,
    /// Those of one address (IPv6: of one network of 64 bits) among them.
    pub wide_per_address_max: usize,
    /// Those of a connection whose other end has shown a certificate. It needs no place among the
    /// wide ones. `None` if a certificate changes nothing.
    pub proven: Option<Windows>,
}

/// The wide windows of one port. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Wide(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    /// Those of each address that has any.
    of: HashMap<Source, usize>,
}

/// The place of one connection with wide windows. It is given back when dropped.
#[derive(Debug)]
pub(super) struct WidePlace {
    wide: Wide,
    source: Source,
}

impl Wide {
    /// Returns the windows of a new connection, and its place if they are wide ones.
    pub(super) fn choose(
        &self,
        limits: &WindowLimits,
        source: Source,
        is_proven: bool,
    ) -> (Windows, Option<WidePlace>) {
        if let Some(proven) = limits.proven.filter(|_| is_proven) {
            return (proven, None);
        }
        match self.take(limits, source) {
            Some(place) => (limits.wide, Some(place)),
            None => (NARROW, None),
        }
    }

    fn take(&self, limits: &WindowLimits, source: Source) -> Option<WidePlace> {
        let mut table = self.0.lock();
        let of_source = table.of.get(&source).copied().unwrap_or(0);
        if table.taken >= limits.wide_max || of_source >= limits.wide_per_address_max {
            return None;
        }
        table.taken += 1;
        table.of.insert(source, of_source + 1);
        Some(WidePlace { wide: self.clone(), source })
    }

    /// Returns the number of connections with a place.
    pub(super) fn taken(&self) -> usize {
        self.0.lock().taken
    }
}

impl Drop for WidePlace {
    fn drop(&mut self) {
        let mut table = self.wide.0.lock();
        table.taken -= 1;
        let Some(of_source) = table.of.get_mut(&self.source) else { return };
        *of_source -= 1;
        if *of_source == 0 {
            table.of.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Source = Source::V6([1, 0, 0, 0]);
    const B: Source = Source::V6([2, 0, 0, 0]);
    const WIDE: Windows = Windows { stream_bytes: 1 << 20, connection_bytes: 2 << 20 };
    const LIMITS: WindowLimits = WindowLimits { wide: WIDE, wide_max: 3, wide_per_address_max: 2, proven: None };

    #[test]
    fn an_address_and_a_port_have_so_many_wide_ones_and_the_others_are_narrow() {
        let wide = Wide::default();
        let of = |source| wide.choose(&LIMITS, source, false);
        let (first, second) = (of(A), of(A));
        assert_eq!((first.0, second.0), (WIDE, WIDE));
        assert_eq!(of(A).0, NARROW, "its address has all that it may have");
        let third = of(B);
        assert_eq!((third.0, of(B).0, wide.taken()), (WIDE, NARROW, 3), "the port has all that it may have");
        drop(first);
        let fourth = of(B);
        assert_eq!((fourth.0, wide.taken()), (WIDE, 3), "a place is given back");
        drop((second, third, fourth));
        assert!(wide.0.lock().of.is_empty(), "nothing is kept of an address without connections");
    }

    #[test]
    fn a_certificate_takes_no_place_where_it_counts() {
        let (wide, proven) = (Wide::default(), Windows { stream_bytes: 7, connection_bytes: 8 });
        let limits = WindowLimits { proven: Some(proven), ..LIMITS };
        assert_eq!(wide.choose(&limits, A, true).0, proven);
        assert_eq!(wide.taken(), 0);
        assert_eq!(wide.choose(&limits, A, false).0, WIDE);
        assert_eq!(wide.choose(&LIMITS, A, true).0, WIDE);
    }
}
