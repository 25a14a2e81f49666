//! Tests of kept compiled code: it is used when it is undamaged and of this engine, and made anew
//! otherwise.

use std::cell::RefCell;

use super::*;

/// A shelf in memory that counts the puts.
#[derive(Default)]
struct Boards {
    held: RefCell<BTreeMap<String, Vec<u8>>>,
    puts: RefCell<usize>,
}

impl Shelf for Boards {
    fn take(&self, name: &str) -> Option<Vec<u8>> {
        self.held.borrow().get(name).cloned()
    }

    fn put(&self, name: &str, replaces: &str, code: &[u8]) {
        let mut held = self.held.borrow_mut();
        held.retain(|name, _| !name.starts_with(replaces));
        held.insert(name.to_owned(), code.to_vec());
        *self.puts.borrow_mut() += 1;
    }
}

fn encoded() -> Bytes {
    Component::encode(&typed_module(&Text::default().module(), CONTRACT, "machine-guest")).unwrap()
}

#[test]
fn code_that_was_kept_is_not_compiled_again() {
    let shelf = Boards::default();
    for _ in 0..3 {
        let component = Component::load_from(&ENGINE, &encoded(), &shelf).unwrap();
        assert_eq!(component.encoded(), &encoded());
    }
    assert_eq!(*shelf.puts.borrow(), 1);
}

#[test]
fn damaged_code_is_compiled_again_wherever_the_damage_is() {
    let shelf = Boards::default();
    Component::load_from(&ENGINE, &encoded(), &shelf).unwrap();
    let (name, whole) = shelf.held.borrow().first_key_value().map(|(name, code)| (name.clone(), code.clone())).unwrap();
    let flips = (0..whole.len()).step_by(whole.len() / 50);
    let damaged = flips.map(|at| {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        damaged
    });
    let cuts = [0, 1, 31, 32, 33, whole.len() - 1].map(|length| whole[..length].to_vec());
    for (n, damaged) in damaged.chain(cuts).enumerate() {
        shelf.held.borrow_mut().insert(name.clone(), damaged);
        Component::load_from(&ENGINE, &encoded(), &shelf).unwrap();
        assert_eq!(*shelf.puts.borrow(), n + 2, "compiled and kept again");
        assert_eq!(shelf.held.borrow()[&name], whole, "compiling is deterministic");
    }
}

#[test]
fn code_of_other_limits_is_not_used() {
    let shelf = Boards::default();
    Component::load_from(&ENGINE, &encoded(), &shelf).unwrap();
    let limits = Limits { wasm_stack_bytes: Limits::default().wasm_stack_bytes / 2, ..Limits::default() };
    Component::load_from(&Engine::new(&limits).unwrap(), &encoded(), &shelf).unwrap();
    assert_eq!((*shelf.puts.borrow(), shelf.held.borrow().len()), (2, 1), "it took the place of the first");
    // The code of a profile of an earlier semantics counts no depth.
    let limits = Limits { semantics: 4, ..Limits::default() };
    Component::load_from(&Engine::new(&limits).unwrap(), &encoded(), &shelf).unwrap();
    assert_eq!(*shelf.puts.borrow(), 3);
    // That of the next one counts the depth alone, and the newest sizes, too.
    let limits = Limits { semantics: 5, ..Limits::default() };
    Component::load_from(&Engine::new(&limits).unwrap(), &encoded(), &shelf).unwrap();
    Component::load_from(&ENGINE, &encoded(), &shelf).unwrap();
    assert_eq!(*shelf.puts.borrow(), 5);
}
