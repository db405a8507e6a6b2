//! Tests of the rewriter of `:authority`: header blocks of real clients, split anywhere, and malformed ones.

use proptest::prelude::*;

use super::*;

const PATH: &str = "/run/pintle/pintle.sock";
const ESCAPED: &str = "%2Frun%2Fpintle%2Fpintle.sock";

/// A string in a header block; shorter than 127 bytes.
fn text(text: &str, huffman: bool) -> Vec<u8> {
    let bytes = if huffman { huffman::encode(text.as_bytes()) } else { text.into() };
    let flag = if huffman { 0x80 } else { 0 };
    [&[flag | u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()
}

/// The field `:authority`; `form` is 0x40 (becomes an entry), 0x00 (does not) or 0x10 (must not).
fn authority(form: u8, value: &str, huffman: bool) -> Vec<u8> {
    [&[form | 1], text(value, huffman).as_slice()].concat()
}

/// The same with its name spelled out.
fn spelled(form: u8, name_huffman: bool, value: &str, huffman: bool) -> Vec<u8> {
    [vec![form], text(":authority", name_huffman), text(value, huffman)].concat()
}

/// POST, http, a path by the name's index, and a header whose name is spelled out.
fn others() -> Vec<u8> {
    [&[0x83, 0x86, 0x44], text("/a.B/C", true).as_slice(), &[0x40], &text("x-a", false), &text("1", false)]
        .concat()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let head = Head { length: payload.len(), kind, flags, stream: [0, 0, 0, 1] };
    let mut frame = Vec::new();
    head.put(&mut frame);
    [frame, payload.into()].concat()
}

/// A connection with other frames around its headers: SETTINGS, and DATA that looks like a HEADERS frame.
fn connection(headers: &[Vec<u8>]) -> Vec<u8> {
    let data = frame(0, 1, &frame(HEADERS, END_HEADERS, &authority(0x40, PATH, false)));
    [PREFACE.to_vec(), frame(4, 0, &[0, 3, 0, 0, 0, 9]), headers.concat(), data].concat()
}

fn pass(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut rewriter, mut output) = (Rewriter::default(), Vec::new());
    pieces.iter().for_each(|piece| rewriter.feed(piece, &mut output));
    rewriter.finish(&mut output);
    output
}

/// The same however it is cut in two, and byte by byte.
#[track_caller]
fn check(input: &[u8], expected: &[u8]) {
    assert_eq!(pass(&[input]), expected);
    for at in 0..=input.len() {
        let (one, two) = input.split_at(at);
        assert_eq!(pass(&[one, two]), expected, "cut at {at}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(pass(&bytes), expected, "byte by byte");
}

/// The host that stands for `value`.
fn host(form: u8, value: &str) -> Vec<u8> {
    authority(form, &"a".repeat(value.len()), true)
}

#[test]
fn a_path_becomes_a_host_of_the_same_length_in_every_form() {
    for value in [PATH, ESCAPED, "unix:/x", "\u{e9}", "a b"] {
        for (form, huffman) in [(0x40, false), (0x40, true), (0, false), (0, true), (0x10, true)] {
            let block = |field| [others(), field, others()].concat();
            let headers = |field| vec![frame(HEADERS, END_HEADERS, &block(field))];
            let came = connection(&headers(authority(form, value, huffman)));
            check(&came, &connection(&headers(host(form, value))));
        }
    }
    assert_eq!(huffman::decode(&host(0, PATH)[2..]).unwrap(), b"a".repeat(PATH.len()));
}

#[test]
fn a_name_that_is_spelled_out_is_known_too() {
    let headers = |field| vec![frame(HEADERS, END_HEADERS, &[others(), field, others()].concat())];
    for (form, name_huffman) in [(0x40, false), (0x40, true), (0x00, false), (0x10, true)] {
        let came = connection(&headers(spelled(form, name_huffman, ESCAPED, false)));
        let host = spelled(form, name_huffman, &"a".repeat(ESCAPED.len()), true);
        check(&came, &connection(&headers(host)));
    }
    // Another name is not touched, nor is what the C core would send for a host.
    let other = [vec![0x40], text(":authoritz", false), text(PATH, false)].concat();
    for field in [other, spelled(0x40, false, "localhost", false)] {
        let came = connection(&headers(field));
        check(&came, &came);
    }
}

#[test]
fn what_is_acceptable_stays_byte_for_byte() {
    for value in ["localhost", "127.0.0.1:80", "[::1]:1", "a.b", ""] {
        for huffman in [false, true] {
            let block = [authority(0x40, value, huffman), others()].concat();
            let (front, rest) = block.split_at(4);
            let padded = [&[2], front, &[0, 0]].concat();
            let came = connection(&[frame(HEADERS, PADDED, &padded), frame(CONTINUATION, END_HEADERS, rest)]);
            check(&came, &came);
        }
    }
}

#[test]
fn a_block_in_padded_frames_with_a_priority_is_put_together() {
    let block = [others(), authority(0x40, PATH, true), others()].concat();
    let expected = [others(), host(0x40, PATH), others()].concat();
    let priority = [0x80, 0, 0, 0, 7];
    for at in 0..=block.len() {
        let (front, rest) = block.split_at(at);
        let payload = [&[3], priority.as_slice(), front, &[0, 0, 0]].concat();
        let came = [
            frame(HEADERS, 1 | PADDED | PRIORITY, &payload),
            frame(CONTINUATION, 0, &[]),
            frame(CONTINUATION, END_HEADERS, rest),
        ];
        let payload = [priority.as_slice(), &expected].concat();
        let passed = [frame(HEADERS, 1 | PRIORITY | END_HEADERS, &payload)];
        assert_eq!(pass(&[&connection(&came)]), connection(&passed), "cut at {at}");
    }
}

#[test]
fn table_sizes_and_entries_are_passed_over() {
    // A new size of 4096, entries 62 and 200, a literal named by entry 70, then the path.
    let before = [&[0x3f, 0xe1, 0x1f, 0xbe, 0xff, 0x49, 0x7f, 7], text("v", false).as_slice()].concat();
    let headers = |field| vec![frame(HEADERS, END_HEADERS | 1, &[before.clone(), field].concat())];
    check(&connection(&headers(authority(0x40, PATH, false))), &connection(&headers(host(0x40, PATH))));
}

#[test]
fn each_request_of_a_connection_is_looked_at() {
    let headers = |field: Vec<u8>| frame(HEADERS, END_HEADERS, &field);
    let came = [authority(0x40, PATH, true), vec![0xbe], authority(0, ESCAPED, false)].map(headers);
    let passed = [host(0x40, PATH), vec![0xbe], host(0, ESCAPED)].map(headers);
    check(&connection(&came), &connection(&passed));
}

#[test]
fn a_long_value_has_a_length_of_several_bytes() {
    for length in [127, 202, 203, 204, 205, 1000, 30_000] {
        let value = "/".repeat(length);
        let mut field = vec![0x01, 0x7f];
        let mut rest = length - 127;
        while rest > 127 {
            field.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
            rest >>= 7;
        }
        field.push(u8::try_from(rest).unwrap());
        field.extend_from_slice(value.as_bytes());
        let block = rewrite_block(&field).unwrap();
        let mut fields = Fields { block: &block, at: 0 };
        let host = fields.next().unwrap().unwrap();
        assert_eq!((fields.at, host.decode().unwrap()), (block.len(), b"a".repeat(length)));
    }
}

#[test]
fn what_does_not_fit_into_one_frame_is_continued() {
    let filler =
        [vec![0x00], text("x-filler", false), vec![0x7f, 0x81, 0x7f], vec![b'x'; 127 + 1 + (127 << 7)]]
            .concat();
    let block = |field: Vec<u8>| [filler.clone(), field].concat();
    let cut = |block: Vec<u8>| {
        let (front, rest) = block.split_at(PAYLOAD_BYTES_MAX);
        connection(&[frame(HEADERS, 0, front), frame(CONTINUATION, END_HEADERS, rest)])
    };
    let came = cut(block(authority(0x40, PATH, false)));
    assert_eq!(pass(&[&came]), cut(block(host(0x40, PATH))));
}

#[test]
fn what_is_not_understood_is_passed_on_as_it_came() {
    let path = authority(0x40, PATH, false);
    let strange = [
        // An integer without end, a string longer than its block, a string that is no Huffman code.
        vec![frame(HEADERS, END_HEADERS, &[&path[..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat())],
        vec![frame(HEADERS, END_HEADERS, &path[..path.len() - 1])],
        vec![frame(HEADERS, END_HEADERS, &[0x41, 0x82, 0x00, 0x00])],
        vec![frame(HEADERS, END_HEADERS, &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff])],
        // More padding than frame, a priority that is cut short.
        vec![frame(HEADERS, END_HEADERS | PADDED, &[&[200], path.as_slice()].concat())],
        vec![frame(HEADERS, END_HEADERS | PRIORITY, &[0, 0, 0])],
        // A block that another frame interrupts, or another stream continues.
        vec![frame(HEADERS, 0, &path), frame(6, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, &[])],
        vec![frame(HEADERS, 0, &path), vec![0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 3]],
    ];
    for frames in strange {
        let came = connection(&frames);
        check(&came, &came);
    }
    for foreign in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", ""] {
        check(foreign.as_bytes(), foreign.as_bytes());
    }
}

#[test]
fn no_more_than_a_block_is_held() {
    let mut came = connection(&[frame(HEADERS, 0, &authority(0x40, PATH, false))]);
    (0..4).for_each(|_| came.extend(frame(CONTINUATION, 0, &[0; PAYLOAD_BYTES_MAX])));
    let (mut rewriter, mut output) = (Rewriter::default(), Vec::new());
    for piece in came.chunks(1000) {
        rewriter.feed(piece, &mut output);
        assert!(rewriter.held.len() <= BLOCK_BYTES_MAX);
    }
    assert_eq!(output, came);
}

#[test]
fn the_code_is_that_of_the_rfc() {
    // RFC 7541, appendix C.4.1 and C.6.1.
    let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
    assert_eq!(huffman::decode(&host).unwrap(), b"www.example.com");
    let date = [
        0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0,
        0x82, 0xa6, 0x2d, 0x1b, 0xff,
    ];
    assert_eq!(huffman::decode(&date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
    assert_eq!(huffman::encode(b"www.example.com"), host);
}

proptest! {
    #[test]
    fn every_string_is_decoded_as_it_was_encoded(text: Vec<u8>) {
        prop_assert_eq!(huffman::decode(&huffman::encode(&text)), Some(text));
    }

    #[test]
    fn a_connection_is_the_same_in_any_pieces_and_never_longer(
        noise in frames(), cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let came = connection(&noise);
        let whole = pass(&[&came]);
        prop_assert!(whole.len() <= came.len());
        let (mut rest, mut pieces) = (came.as_slice(), Vec::new());
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(pass(&pieces), whole);
    }

    #[test]
    fn only_a_value_that_is_refused_changes(values in prop::collection::vec(any::<(u8, String, bool)>(), 0..6)) {
        let forms = [0x40, 0x00, 0x10];
        let short = values.into_iter().filter(|(_, value, _)| !value.is_empty() && value.len() < 30);
        let (mut came, mut expected) = (others(), others());
        for (form, value, huffman) in short {
            let form = forms[usize::from(form) % forms.len()];
            let field = authority(form, &value, huffman);
            came.extend_from_slice(&field);
            expected.extend(if Authority::try_from(value.as_str()).is_ok() { field } else { host(form, &value) });
        }
        let rewritten = rewrite_block(&came).unwrap_or(came);
        prop_assert_eq!(rewritten, expected);
    }
}

/// Frames of any kind, headers among them, mostly malformed.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), 0_u8..12];
    let path = (any::<bool>(), prop_oneof![Just(PATH), Just(ESCAPED), Just("localhost")]);
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        path.prop_map(|(huffman, value)| [others(), authority(0x40, value, huffman)].concat()),
    ];
    let one = (kind, any::<u8>(), payload).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload));
    prop::collection::vec(one, 0..8)
}
