// SPDX-License-Identifier: GPL-2.0

//! The messages of clients and the compositor: the part of Wayland that matters to a driver.

use crate::socket::SIZE;

/// From a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The first one. Frames of innocent clients have to be shown as they were drawn.
    Hello { innocent: bool },
    /// The buffer that comes as a dma-buf with it is the client's next one.
    Attach,
    /// The client has submitted what draws to this buffer, at this time of the monotonic clock, in
    /// a colour of these bits. If a sync file comes with it, that tells when it is done; else the
    /// fences of the buffer do.
    Commit { buffer: u64, seed: u64, at_ns: u64 },
}

impl Request {
    pub(super) fn encode(self) -> [u8; SIZE] {
        bytes(match self {
            Self::Hello { innocent } => [0, u64::from(innocent), 0, 0],
            Self::Attach => [1, 0, 0, 0],
            Self::Commit {
                buffer,
                seed,
                at_ns,
            } => [2, buffer, seed, at_ns],
        })
    }

    pub(super) fn decode(bytes: &[u8; SIZE]) -> Self {
        match words(bytes) {
            [0, innocent, ..] => Self::Hello {
                innocent: innocent != 0,
            },
            [1, ..] => Self::Attach,
            [_, buffer, seed, at_ns] => Self::Commit {
                buffer,
                seed,
                at_ns,
            },
        }
    }
}

/// From the compositor: the client may draw to this buffer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) buffer: u64,
}

impl Release {
    pub(super) fn encode(self) -> [u8; SIZE] {
        bytes([self.buffer, 0, 0, 0])
    }

    pub(super) fn decode(bytes: &[u8; SIZE]) -> Self {
        let [buffer, ..] = words(bytes);
        Self { buffer }
    }
}

fn bytes(words: [u64; 4]) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn words(bytes: &[u8; SIZE]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(from);
        *word = u64::from_ne_bytes(bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for request in [
            Request::Hello { innocent: true },
            Request::Hello { innocent: false },
            Request::Attach,
            Request::Commit {
                buffer: 2,
                seed: 0x1234_5678,
                at_ns: u64::MAX,
            },
        ] {
            assert_eq!(Request::decode(&request.encode()), request);
        }
        let release = Release { buffer: 1 };
        assert_eq!(Release::decode(&release.encode()), release);
    }
}
