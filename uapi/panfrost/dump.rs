// SPDX-License-Identifier: GPL-2.0

//! The layout of dumps, which is that of C panfrost and can be read by Mesa's `panfrostdump`.
//!
//! A file begins with headers of the same size: one for the registers, one for the physical
//! addresses of all pages, one for each piece of memory, and one that ends the list. The data
//! follows, in the same order. Behind the header that ends the list comes another one, for text.
//! Readers of the C driver's dumps do not look there.
//!
//! Differences to the C driver: there is always a header for the addresses, since Mesa expects one;
//! a heap is a piece for each 2 MiB that are present; and memory that was not there when the file
//! was laid out takes no room in it.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uapi::{
        self,
        panfrost_dump_object_header as Header,
        panfrost_dump_registers as Register, //
    }, //
};

use crate::hw::dump::{
    Dump,
    DumpFormat, //
};

/// The layout.
pub(super) const FORMAT: DumpFormat = DumpFormat { lay_out, finish };

/// The type of the object that is text. Far above those of the C driver.
const TEXT: u32 = 0x100;

/// The size of an entry of the list of addresses.
const ADDRESS: usize = size_of::<u64>();

/// The part of [`Header`] that depends on the type of the object.
const UNION: usize = offset_of!(Header, __bindgen_anon_1);

/// Number of headers besides those of the pieces: registers, addresses, end, text.
const OTHERS: usize = 4;

/// The offsets in a file of all but the pieces themselves.
struct Offsets {
    registers: usize,
    addresses: usize,
    pieces: usize,
    text: usize,
}

impl Offsets {
    /// Returns the offsets in a dump. Errors: `EOVERFLOW`.
    fn of(dump: &Dump<'_>) -> Result<Self> {
        let times = |count: usize, size| count.checked_mul(size).ok_or(EOVERFLOW);
        let plus = |at: usize, size| at.checked_add(size).ok_or(EOVERFLOW);

        let registers = times(dump.pieces.len() + OTHERS, size_of::<Header>())?;
        let addresses = plus(
            registers,
            times(dump.registers.len(), size_of::<Register>())?,
        )?
        .checked_next_multiple_of(ADDRESS)
        .ok_or(EOVERFLOW)?;
        let mut pieces = addresses;
        let mut text = 0;
        for piece in dump.pieces.iter() {
            pieces = plus(pieces, times(piece.size.div_ceil(PAGE_SIZE), ADDRESS)?)?;
            text = plus(text, piece.size)?;
        }
        let text = plus(pieces, text)?;

        // The fields of the file have 32 bits.
        match u32::try_from(plus(text, dump.text)?) {
            Ok(_) => Ok(Self {
                registers,
                addresses,
                pieces,
                text,
            }),
            Err(_) => Err(EOVERFLOW),
        }
    }
}

/// Implements [`DumpFormat::lay_out`].
fn lay_out(dump: &mut Dump<'_>) -> Result<usize> {
    let offsets = Offsets::of(dump)?;
    let (mut at, mut pages_at) = (offsets.pieces, offsets.addresses);

    for piece in dump.pieces.iter_mut() {
        piece.at = at;
        piece.pages_at = pages_at;
        // These cannot overflow: the sums were computed above.
        at += piece.size;
        pages_at += piece.size.div_ceil(PAGE_SIZE) * ADDRESS;
    }
    Ok(offsets.text)
}

/// Writes bytes at an offset. Errors: `EINVAL` if the file ends before.
fn put<const SIZE: usize>(file: &mut [u8], at: usize, bytes: [u8; SIZE]) -> Result {
    let end = at.checked_add(SIZE).ok_or(EINVAL)?;

    file.get_mut(at..end).ok_or(EINVAL)?.copy_from_slice(&bytes);
    Ok(())
}

/// Writes headers, one after the other.
struct Headers<'a> {
    file: &'a mut [u8],
    /// Where the header that was written last is, or the first one will be.
    at: usize,
    next: usize,
}

impl Headers<'_> {
    /// Begins a header of an object with `size` bytes from `from` on. The values are below 4 GiB.
    fn begin(&mut self, kind: u32, from: usize, size: usize) -> Result {
        self.at = self.next;
        self.next += size_of::<Header>();

        self.put_u32(offset_of!(Header, magic), uapi::PANFROSTDUMP_MAGIC)?;
        self.put_u32(offset_of!(Header, type_), kind)?;
        self.put_u32(offset_of!(Header, file_offset), u32::try_from(from)?)?;
        self.put_u32(offset_of!(Header, file_size), u32::try_from(size)?)
    }

    fn put_u32(&mut self, offset: usize, value: u32) -> Result {
        put(self.file, self.at + offset, value.to_ne_bytes())
    }

    fn put_u64(&mut self, offset: usize, value: u64) -> Result {
        put(self.file, self.at + offset, value.to_ne_bytes())
    }
}

/// Implements [`DumpFormat::finish`].
fn finish(dump: &Dump<'_>, file: &mut [u8]) -> Result {
    type Registers = uapi::panfrost_dump_object_header__bindgen_ty_1__bindgen_ty_1;
    type Memory = uapi::panfrost_dump_object_header__bindgen_ty_1__bindgen_ty_2;

    let offsets = Offsets::of(dump)?;

    for (index, (offset, value)) in dump.registers.iter().enumerate() {
        let at = offsets.registers + index * size_of::<Register>();

        put(file, at + offset_of!(Register, reg), offset.to_ne_bytes())?;
        put(file, at + offset_of!(Register, value), value.to_ne_bytes())?;
    }

    let mut headers = Headers {
        file,
        at: 0,
        next: 0,
    };
    let size = dump.registers.len() * size_of::<Register>();

    headers.begin(uapi::PANFROSTDUMP_BUF_REG, offsets.registers, size)?;
    headers.put_u64(UNION + offset_of!(Registers, jc), dump.chain)?;
    headers.put_u32(UNION + offset_of!(Registers, gpu_id), dump.product)?;
    headers.put_u32(
        UNION + offset_of!(Registers, major),
        uapi::PANFROSTDUMP_MAJOR,
    )?;
    headers.put_u32(
        UNION + offset_of!(Registers, minor),
        uapi::PANFROSTDUMP_MINOR,
    )?;
    headers.put_u64(
        UNION + offset_of!(Registers, nbos),
        dump.pieces.len() as u64,
    )?;

    let size = offsets.pieces - offsets.addresses;

    headers.begin(uapi::PANFROSTDUMP_BUF_BOMAP, offsets.addresses, size)?;
    for piece in dump.pieces.iter() {
        let first = (piece.pages_at - offsets.addresses) / ADDRESS;

        headers.begin(uapi::PANFROSTDUMP_BUF_BO, piece.at, piece.size)?;
        headers.put_u32(UNION + offset_of!(Memory, valid), piece.valid.into())?;
        headers.put_u64(UNION + offset_of!(Memory, iova), piece.va)?;
        headers.put_u32(UNION + offset_of!(Memory, data), u32::try_from(first)?)?;
    }
    headers.begin(uapi::PANFROSTDUMP_BUF_TRAILER, offsets.text, 0)?;
    headers.begin(TEXT, offsets.text, dump.text)
}

#[kunit_tests(drm_gpu_panfrost_dump)]
mod tests {
    use super::*;
    use crate::hw::dump::Piece;

    fn word(file: &[u8], at: usize) -> u32 {
        let mut bytes = [0; 4];

        bytes.copy_from_slice(&file[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    /// The offsets are those that Mesa's reader uses.
    #[test]
    fn layout_of_the_peer() -> Result {
        const SIZE: usize = 2000;
        let piece = |va, size| Piece {
            va,
            size,
            ..Piece::default()
        };
        let mut pieces = [
            piece(0x1000, 2 * PAGE_SIZE),
            piece(0x8000, 0),
            piece(0x9000, 100),
        ];
        let mut dump = Dump {
            chain: 0x1_0000_1040,
            product: 0x7212,
            registers: &[(0x140, 1), (0x144, 2), (0x150, 3)],
            pieces: &mut pieces,
            text: 5,
        };

        let end = lay_out(&mut dump)?;
        let mut file = KVVec::from_elem(0u8, end + dump.text, GFP_KERNEL)?;
        for piece in dump.pieces.iter_mut() {
            piece.valid = piece.size != 0;
        }
        finish(&dump, &mut file)?;

        let header = |index: usize| {
            let at = index * SIZE;

            assert_eq!(word(&file, at), 0x464e_4150);
            (
                word(&file, at + 4),
                word(&file, at + 8) as usize,
                word(&file, at + 12) as usize,
            )
        };
        let data = 7 * SIZE;
        assert_eq!(header(0), (0, 24, data));
        assert_eq!(word(&file, 16), 0x1040);
        assert_eq!(word(&file, 20), 1);
        assert_eq!(word(&file, 24), 0x7212);
        assert_eq!((word(&file, 28), word(&file, 32)), (1, 0));
        assert_eq!((word(&file, 40), word(&file, 44)), (3, 0));
        assert_eq!((word(&file, data + 8), word(&file, data + 12)), (0x144, 2));

        let addresses = data + 24;
        let memory = addresses + 3 * 8;
        assert_eq!(header(1), (1, 3 * 8, addresses));
        assert_eq!(header(2), (2, 2 * PAGE_SIZE, memory));
        assert_eq!(header(3), (2, 0, memory + 2 * PAGE_SIZE));
        assert_eq!(header(4), (2, 100, memory + 2 * PAGE_SIZE));
        assert_eq!(header(5), (3, 0, end));
        assert_eq!(header(6), (TEXT, 5, end));
        assert_eq!(end, memory + 2 * PAGE_SIZE + 100);

        let bo = |index: usize| {
            let at = index * SIZE + 16;

            (word(&file, at), word(&file, at + 8), word(&file, at + 16))
        };
        assert_eq!(bo(2), (1, 0x1000, 0));
        assert_eq!(bo(3), (0, 0x8000, 2));
        assert_eq!(bo(4), (1, 0x9000, 2));
        assert_eq!(dump.pieces[2].pages_at, addresses + 2 * 8);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut pieces = [Piece {
            size: usize::MAX - 100,
            ..Piece::default()
        }];
        let mut dump = Dump {
            chain: 1,
            product: 1,
            registers: &[],
            pieces: &mut pieces,
            text: 0,
        };

        assert_eq!(lay_out(&mut dump), Err(EOVERFLOW));
        dump.pieces[0].size = PAGE_SIZE;
        let end = lay_out(&mut dump);
        assert!(end.is_ok());
        assert!(finish(&dump, &mut []).is_err());
    }
}
