//! Tests that encoded keys keep their order and their bytes, and that prefixes match the right
//! keys.

use proptest::prelude::*;

use super::*;

fn bytes<K>(key: &(impl EncodeKey<K> + ?Sized)) -> Vec<u8> {
    encode(key)
}

fn begins_with<K: Key>(key: &K, prefix: &impl Prefix<K>) -> bool {
    let mut begin = Vec::new();
    prefix.encode_prefix(&mut begin);
    encode(key).starts_with(&begin)
}

fn check<K: Key + Ord + Clone + fmt::Debug>(a: &K, b: &K) {
    for key in [a, b] {
        let encoded = bytes(key);
        let mut rest = encoded.as_slice();
        assert_eq!(&K::decode_key(&mut rest).unwrap(), key);
        assert!(rest.is_empty());
    }
    assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(b), "{a:?} {b:?}");
}

proptest! {
    #[test]
    fn order_and_value_survive(
        unsigned in any::<[(u8, u16, u32, u64); 2]>(),
        signed in any::<[(i8, i16, i32, i64); 2]>(),
        wide in any::<[(u128, i128); 2]>(),
        mixed in any::<[(String, i64, Vec<u8>); 2]>(),
        flags in any::<[(bool, Vec<u8>); 2]>(),
        maybe in any::<[(Option<String>, [u8; 3], char); 2]>(),
        turned in any::<[(String, i16); 2]>(),
    ) {
        check(&unsigned[0], &unsigned[1]);
        check(&signed[0], &signed[1]);
        check(&wide[0], &wide[1]);
        check(&mixed[0], &mixed[1]);
        check(&flags[0], &flags[1]);
        check(&maybe[0], &maybe[1]);
        let [a, b] = turned.map(|(text, n)| (Reverse(text.clone()), (Reverse(Some(n)), text)));
        check(&a, &b);
    }

    /// Few different letters, so that prefixes, zeros and 0xFF often coincide.
    #[test]
    fn strings_of_zeros_and_ones_keep_their_order(
        a in proptest::collection::vec((prop::sample::select(vec![0u8, 1, 0xfe, 0xff]), any::<bool>()), 0..6),
        b in proptest::collection::vec((prop::sample::select(vec![0u8, 1, 0xfe, 0xff]), any::<bool>()), 0..6),
    ) {
        let text = |pairs: &[(u8, bool)]| pairs.iter().map(|pair| pair.0).collect::<Vec<u8>>();
        check(&(text(&a), -1i8), &(text(&b), 1i8));
        check(&text(&a), &text(&b));
        let mut prefix = Vec::new();
        text(&a).encode_prefix(&mut prefix);
        prop_assert_eq!(bytes(&text(&b)).starts_with(&prefix), text(&b).starts_with(&text(&a)));
    }

    /// Few different letters, so that prefixes, zeros and 0xFF often coincide.
    #[test]
    fn tuples_begin_with_their_first_parts_and_a_part_of_the_next(
        key in ("[ab\0ÿ]{0,2}", "[ab\0ÿ]{0,3}", 0_u8..2),
        (first, begin) in ("[ab\0ÿ]{0,2}", "[ab\0ÿ]{0,2}"),
        number in 0_u8..2,
    ) {
        let wanted = key.0 == first && key.1.starts_with(&begin);
        prop_assert_eq!(begins_with(&key, &Begins((&first,), &begin)), wanted);
        let pair = (key.0.clone(), key.1.clone());
        prop_assert_eq!(begins_with(&pair, &Begins((first.as_str(),), begin.as_str())), wanted);
        prop_assert_eq!(begins_with(&pair, &(&first,)), pair.0 == first);
        prop_assert_eq!(begins_with(&key, &(&first, begin.as_str())), key.0 == first && key.1 == begin);
        let last = (number, key.2, pair.1.clone());
        let wanted = number == 1 && key.2 == 0 && pair.1.starts_with(&begin);
        prop_assert_eq!(begins_with(&last, &Begins((1, 0), &begin)), wanted);
    }

    #[test]
    fn borrowed_forms_have_the_bytes_of_the_key(key in any::<(String, Vec<u8>, Option<String>, i32)>()) {
        let borrowed = (key.0.as_str(), key.1.as_slice(), key.2.as_deref(), key.3);
        prop_assert_eq!(encode::<(String, Vec<u8>, Option<String>, i32)>(&borrowed), encode(&key));
        let turned = Reverse(key.0.as_str());
        prop_assert_eq!(encode::<Reverse<String>>(&turned), encode(&Reverse(key.0.clone())));
    }

    #[test]
    fn decoding_never_panics(input in any::<Vec<u8>>()) {
        let _ = <(String, u64)>::decode_key(&mut input.as_slice());
        let _ = <(bool, Vec<u8>, i16)>::decode_key(&mut input.as_slice());
        let _ = <(Reverse<String>, Option<char>, [u8; 2])>::decode_key(&mut input.as_slice());
    }

    #[test]
    fn tags_never_begin_one_another(a in 1..=crate::tags::TAG_MAX, b in 1..=crate::tags::TAG_MAX) {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        encode_tag(a, &mut x);
        encode_tag(b, &mut y);
        prop_assert_eq!(x.len(), tag_len(a));
        prop_assert_eq!(x.starts_with(&y), a == b);
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        prop_assert!(end_of_prefix(x.clone()).unwrap() > x);
    }
}

#[test]
fn bytes_on_disk_stay_as_they_are() {
    assert_eq!(bytes(&0x0102_u16), [1, 2]);
    assert_eq!(bytes(&-1_i32), [0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(bytes(&1_i64), [0x80, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bytes(&true), [1]);
    assert_eq!(bytes(&'a'), [0, 0, 0, 97]);
    assert_eq!(bytes(&[7_u8, 0]), [7, 0]);
    assert_eq!(bytes(&Some(1_u8)), [1, 1]);
    assert_eq!(bytes(&None::<u8>), [0]);
    assert_eq!(bytes(&Reverse(1_u16)), [0xff, 0xfe]);
    assert_eq!(bytes("a\0b"), [b'a', 0, 0xff, b'b', 0, 0]);
    assert_eq!(bytes(&("k".to_owned(), 7_u8)), [b'k', 0, 0, 7]);
    let tag = |tag| {
        let mut out = Vec::new();
        encode_tag(tag, &mut out);
        out
    };
    assert_eq!(tag(1), [1]);
    assert_eq!(tag(127), [127]);
    assert_eq!(tag(128), [0x80, 0x80]);
    assert_eq!(tag(16383), [0xbf, 0xff]);
}

#[test]
fn end_of_prefix_carries() {
    assert_eq!(end_of_prefix(vec![1, 0xff, 0xff]), Some(vec![2]));
    assert_eq!(end_of_prefix(vec![0xff]), None);
}
