//! HPACK's Huffman code (RFC 7541 appendix B). It is canonical: the lengths of the codes are the whole of it.

/// Bits of the longest code.
const BITS_MAX: usize = 30;

/// Ends a string; never sent.
const END: usize = 256;

/// Bits of the code of each byte, and of [`END`] (RFC 7541 appendix B).
    #[rustfmt::skip]
    const BITS: [u8; 257] = [
        13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
        28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
        6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
        5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
        13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
        15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
        6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
        20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
        24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
        22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
        21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
        26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
        19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
        20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
        26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
        30,
    ];

/// Codes of one length follow each other, in order of their bytes.
struct Codes {
    /// The first code of each length.
    first: [u32; BITS_MAX + 1],
    /// How many codes of each length there are.
    count: [u32; BITS_MAX + 1],
    /// The index in `symbols` of the first of each length.
    start: [usize; BITS_MAX + 1],
    /// Bytes and [`END`], shortest codes first.
    symbols: [u16; 257],
}

static CODES: Codes = codes();

const fn codes() -> Codes {
    let (mut first, mut count, mut start) = ([0; BITS_MAX + 1], [0; BITS_MAX + 1], [0; BITS_MAX + 1]);
    let (mut symbols, mut placed, mut code, mut bits) = ([0; 257], 0, 0, 1);
    while bits <= BITS_MAX {
        (first[bits], start[bits]) = (code, placed);
        let mut symbol: u16 = 0;
        while symbol as usize <= END {
            if BITS[symbol as usize] as usize == bits {
                symbols[placed] = symbol;
                placed += 1;
                count[bits] += 1;
            }
            symbol += 1;
        }
        code = (code + count[bits]) << 1;
        bits += 1;
    }
    Codes { first, count, start, symbols }
}

/// `None` if this is no such string.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut bits) = (0_u32, 0);
    for byte in coded {
        for place in (0..8).rev() {
            code = code << 1 | u32::from(byte >> place & 1);
            bits += 1;
            if bits > BITS_MAX {
                return None;
            }
            let nth = code.wrapping_sub(CODES.first[bits]);
            if nth < CODES.count[bits] {
                let symbol = CODES.symbols[CODES.start[bits] + nth as usize];
                decoded.push(u8::try_from(symbol).ok()?);
                (code, bits) = (0, 0);
            }
        }
    }
    // Padding is less than a byte of ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(decoded)
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut bits, mut coded) = (String::new(), Vec::new());
    for byte in text {
        let length = usize::from(BITS[usize::from(*byte)]);
        let nth = (0..*byte).filter(|other| usize::from(BITS[usize::from(*other)]) == length).count();
        let code = CODES.first[length] + u32::try_from(nth).unwrap();
        bits.push_str(&format!("{code:0length$b}"));
    }
    while bits.len() % 8 != 0 {
        bits.push('1');
    }
    for byte in bits.as_bytes().chunks(8) {
        coded.push(u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap());
    }
    coded
}
