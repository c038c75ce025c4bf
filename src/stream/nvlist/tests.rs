use proptest::prelude::*;

use super::*;

/// `{ resume_object = 2, resume_offset = 0x100000 }` in native encoding, as a BEGIN of a resumed send has it.
fn native(big: bool) -> Vec<u8> {
    let w = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let h = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let q = |n: u64| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let mut out = vec![0, u8::from(!big), 0, 0];
    out.extend([w(0), w(1)].concat());
    for (name, value) in [("resume_object", 2), ("resume_offset", 0x10_0000)] {
        out.extend(w(16 + 16 + 8));
        out.extend(h(name.len() as u16 + 1));
        out.extend(h(0));
        out.extend([w(1), w(t::UINT64)].concat());
        out.extend(name.as_bytes());
        out.extend([0; 3]);
        out.extend(q(value));
    }
    out.extend(w(0));
    out
}

/// An XDR list around the bytes of its pairs.
fn xdr(pairs: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    out.extend(pairs);
    out.extend([0; 8]);
    out
}

fn xdr_pair(name: &str, kind: u32, n: u32, value: &[u8]) -> Vec<u8> {
    let mut body = (name.len() as u32).to_be_bytes().to_vec();
    body.extend(name.as_bytes());
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend([kind.to_be_bytes(), n.to_be_bytes()].concat());
    body.extend(value);
    let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
    out.extend([0, 0, 0, 32]);
    out.extend(body);
    out
}

#[test]
fn native_in_both_byte_orders() {
    for big in [false, true] {
        let bytes = native(big);
        assert_eq!(bytes.len(), 96, "as long as the one in a real resumed stream");
        let list = decode(&bytes, Limits::SMALL).unwrap();
        assert_eq!((list.u64("resume_object"), list.u64("resume_offset")), (Some(2), Some(0x10_0000)));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], Limits::SMALL).is_err(), "cut off at {len}");
        }
    }
}

#[test]
fn xdr_values() {
    let mut inner = vec![0, 0, 0, 0, 0, 0, 0, 1];
    inner.extend(xdr_pair("a", t::UINT64, 1, &7u64.to_be_bytes()));
    inner.extend([0; 8]);
    let pairs = [
        xdr_pair("flag", t::BOOLEAN, 0, &[]),
        xdr_pair("text", t::STRING, 1, &[0, 0, 0, 3, b'x', b'y', b'z', 0]),
        xdr_pair("bytes", t::BYTE_ARRAY, 5, &[1, 2, 3, 4, 5, 0, 0, 0]),
        xdr_pair("octets", t::UINT8_ARRAY, 2, &[0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 9]),
        xdr_pair("numbers", t::UINT64_ARRAY, 1, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6]),
        xdr_pair("list", t::NVLIST, 1, &inner),
        xdr_pair("lists", t::NVLIST_ARRAY, 2, &[inner.clone(), inner.clone()].concat()),
        xdr_pair("ratio", t::DOUBLE, 1, &[0; 8]),
    ]
    .concat();
    let list = decode(&xdr(&pairs), Limits::SMALL).unwrap();
    assert_eq!(list.pairs().len(), 8);
    assert_eq!(list.get("flag"), Some(&Value::Flag));
    assert_eq!(list.str("text"), Some("xyz"));
    assert_eq!(list.get("bytes"), Some(&Value::Bytes(vec![1, 2, 3, 4, 5])));
    assert_eq!(list.get("octets"), Some(&Value::Bytes(vec![8, 9])));
    assert_eq!(list.get("numbers"), Some(&Value::U64s(vec![6])));
    assert_eq!(list.list("list").and_then(|l| l.u64("a")), Some(7));
    assert!(matches!(list.get("lists"), Some(Value::Lists(l)) if l.len() == 2));
    assert_eq!(list.get("ratio"), Some(&Value::Other(t::DOUBLE)));
}

#[test]
fn bounds_hold() {
    let flag = xdr_pair("f", t::BOOLEAN, 0, &[]);
    let limits = Limits { bytes: 200, depth: 3, items: 2 };
    assert_eq!(decode(&[0; 201], limits), Err(NvError::TooLong(200)));
    let many: Vec<u8> = ["f", "g", "h"].iter().flat_map(|name| xdr_pair(name, t::BOOLEAN, 0, &[])).collect();
    assert_eq!(decode(&xdr(&many), limits), Err(NvError::TooMany(2)));
    assert_eq!(decode(&xdr(&[flag.clone(), flag].concat()), limits), Err(NvError::Malformed("a name occurs twice")));
    // A list in a list in a list …, deeper than allowed.
    let mut value = [0; 16].to_vec();
    for _ in 0..3 {
        let mut outer = vec![0; 8];
        outer.extend(xdr_pair("l", t::NVLIST, 1, &value));
        outer.extend([0; 8]);
        value = outer;
    }
    let nested = xdr(&xdr_pair("l", t::NVLIST, 1, &value));
    assert_eq!(decode(&nested, Limits { items: 100, bytes: 1000, depth: 3 }), Err(NvError::TooDeep(3)));
    assert!(decode(&nested, Limits { items: 100, bytes: 1000, depth: 5 }).is_ok());
    // A huge count of elements allocates nothing.
    let huge = xdr(&xdr_pair("n", t::UINT64_ARRAY, u32::MAX, &[255; 12]));
    assert!(decode(&huge, Limits::SMALL).is_err());
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), head in 0u8..2, order in 0u8..2) {
        let _ = decode(&bytes, Limits::SMALL);
        let mut bytes = bytes;
        if bytes.len() > 12 {
            bytes[..12].copy_from_slice(&[head, order, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let _ = decode(&bytes, Limits::SMALL);
    }

    #[test]
    fn no_change_of_a_real_list_panics(at in 0usize..96, byte: u8, big: bool) {
        let mut bytes = native(big);
        bytes[at] = byte;
        let _ = decode(&bytes, Limits::SMALL);
    }
}
