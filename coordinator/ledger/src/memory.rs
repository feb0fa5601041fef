//! A database's storage in memory. It grows by pieces: redb's own copies its whole content each time it
//! grows, which costs a growing chain a tenth of its time.

use std::io;

use parking_lot::RwLock;
use redb::StorageBackend;

/// The size of a piece, in bytes.
const PIECE: usize = 1 << 20;

/// The storage. A piece takes memory from its first write on; until then it is zero.
#[derive(Debug, Default)]
pub(super) struct Memory(RwLock<Content>);

#[derive(Debug, Default)]
struct Content {
    length: u64,
    pieces: Vec<Option<Box<[u8]>>>,
}

/// The part of a range that lies in one piece.
struct Part {
    piece: usize,
    /// The first byte within the piece.
    from: usize,
    length: usize,
}

impl Content {
    /// The parts of a range of bytes, in order.
    fn parts(&self, offset: u64, length: usize) -> io::Result<impl Iterator<Item = Part> + use<>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.length);
        let (Some(_), Ok(start)) = (end, usize::try_from(offset)) else {
            let text =
                format!("{length} bytes at {offset} are not within the {} of the database", self.length);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        };
        let mut done = 0;
        Ok(std::iter::from_fn(move || {
            let (piece, from) = ((start + done) / PIECE, (start + done) % PIECE);
            let length = (length - done).min(PIECE - from);
            done += length;
            (length > 0).then_some(Part { piece, from, length })
        }))
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().length)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let content = self.0.read();
        for Part { piece, from, length } in content.parts(offset, out.len())? {
            let Some((to, rest)) = out.split_at_mut_checked(length) else { break };
            let bytes = content.pieces.get(piece).and_then(Option::as_ref);
            match bytes.and_then(|bytes| bytes.get(from..from + length)) {
                Some(bytes) => to.copy_from_slice(bytes),
                None => to.fill(0),
            }
            out = rest;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut content = self.0.write();
        let whole = usize::try_from(length).map_err(io::Error::other)?;
        content.pieces.resize_with(whole.div_ceil(PIECE), || None);
        // What is cut off is zero if the storage grows again.
        if let Some(Some(last)) = content.pieces.get_mut(whole / PIECE)
            && let Some(cut) = last.get_mut(whole % PIECE..)
        {
            cut.fill(0);
        }
        content.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut content = self.0.write();
        for Part { piece, from, length } in content.parts(offset, data.len())? {
            let Some((bytes, rest)) = data.split_at_checked(length) else { break };
            let Some(piece) = content.pieces.get_mut(piece) else { break };
            let piece = piece.get_or_insert_with(|| vec![0; PIECE].into_boxed_slice());
            if let Some(to) = piece.get_mut(from..from + length) {
                to.copy_from_slice(bytes);
            }
            data = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Resize(usize),
        Write(usize, Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Places near the borders of pieces.
        let place = (0usize..4, -20i64..20).prop_map(|(piece, at)| {
            usize::try_from((i64::try_from(piece * PIECE).unwrap() + at).max(0)).unwrap()
        });
        prop_oneof![
            place.clone().prop_map(Step::Resize),
            (place, vec(any::<u8>(), 0..60)).prop_map(|(at, data)| Step::Write(at, data)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Law: it reads like one piece of memory.
        #[test]
        fn it_is_a_file(steps in vec(step(), 1..20)) {
            let (memory, mut file) = (Memory::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Resize(length) => {
                        memory.set_len(length as u64).unwrap();
                        file.resize(length, 0);
                    }
                    Step::Write(at, data) => {
                        let place = file.get_mut(at..at + data.len());
                        prop_assert_eq!(memory.write(at as u64, &data).is_ok(), place.is_some());
                        if let Some(place) = place {
                            place.copy_from_slice(&data);
                        }
                    }
                }
                prop_assert_eq!(memory.len().unwrap(), file.len() as u64);
                let mut content = vec![1; file.len()];
                memory.read(0, &mut content).unwrap();
                prop_assert!(content == file);
                prop_assert!(memory.read(1, &mut content).is_err() || file.is_empty());
            }
        }
    }
}
