//! A client's bytes through `cri::authority`: the same in any pieces, never more than came, and nothing left to
//! change in what went out.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/cri/authority/mod.rs"]
mod authority;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn pass(bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut rewriter, mut output) = (authority::Rewriter::default(), Vec::new());
    bytes.chunks(piece).for_each(|piece| rewriter.feed(piece, &mut output));
    rewriter.finish(&mut output);
    output
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, frames)) = input.split_first() else { return };
    let came = [PREFACE, frames].concat();
    let whole = pass(&came, came.len());
    assert!(whole.len() <= came.len());
    assert_eq!(pass(&came, usize::from(piece) + 1), whole);
    assert_eq!(pass(&whole, whole.len()), whole);
});
