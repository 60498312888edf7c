//! Several workers on one list of work, as one for each card: each takes the next piece whenever
//! it is free.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use anyhow::Result;

/// A worker: does a piece of work, and tells of each of its parts when it is done.
pub(crate) type Worker<'a, T, R> = Box<dyn FnMut(T, &dyn Fn(R)) -> Result<()> + 'a>;

/// Makes a worker on the thread where it stays.
pub(crate) type Maker<'a, T, R> = Box<dyn FnOnce() -> Result<Worker<'a, T, R>> + Send + 'a>;

/// Lets workers do all of a list; `tell` hears of each part on this thread, in the order in
/// which they end. After the first error nothing more is begun, and what was begun is finished.
pub(crate) fn share<T: Send, R: Send>(
    work: Vec<T>,
    makers: Vec<Maker<T, R>>,
    mut tell: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let left = Left(Mutex::new(work.into()));
    let (sender, told) = channel();
    thread::scope(|scope| {
        for maker in makers {
            let (sender, left) = (sender.clone(), &left);
            scope.spawn(move || {
                if let Err(error) = work_on(left, maker, &sender) {
                    left.give_up();
                    // The receiver lives as long as all workers.
                    let _ = sender.send(Err(error));
                }
            });
        }
        drop(sender);
        let mut ended = Ok(());
        for part in told {
            if let Err(error) = part.and_then(&mut tell) {
                left.give_up();
                ended = ended.and(Err(error));
            }
        }
        ended
    })
}

fn work_on<T, R>(left: &Left<T>, maker: Maker<T, R>, sender: &Sender<Result<R>>) -> Result<()> {
    let mut worker = maker()?;
    while let Some(piece) = left.next() {
        worker(piece, &|part| {
            let _ = sender.send(Ok(part));
        })?;
    }
    Ok(())
}

/// The work that no worker has begun.
struct Left<T>(Mutex<VecDeque<T>>);

impl<T> Left<T> {
    fn next(&self) -> Option<T> {
        self.pieces().pop_front()
    }

    fn give_up(&self) {
        self.pieces().clear();
    }

    fn pieces(&self) -> MutexGuard<'_, VecDeque<T>> {
        // A panic elsewhere leaves the list valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier};

    use anyhow::bail;

    use super::*;

    /// Workers that return each piece with their number, and fail at one piece.
    fn makers(count: usize, bad: usize, met: &Barrier) -> Vec<Maker<'_, usize, (usize, usize)>> {
        let maker = |own: usize| -> Maker<usize, (usize, usize)> {
            Box::new(move || {
                // All have begun before the first goes on.
                met.wait();
                let mut is_first = true;
                Ok(Box::new(move |piece, tell| {
                    if std::mem::take(&mut is_first) {
                        met.wait();
                    }
                    if piece == bad {
                        bail!("piece {piece}");
                    }
                    tell((own, piece));
                    Ok(())
                }))
            })
        };
        (0..count).map(maker).collect()
    }

    #[test]
    fn all_workers_share_the_work_and_none_is_done_twice() {
        let (met, mut told) = (Barrier::new(2), Vec::new());
        let tell = |part| {
            told.push(part);
            Ok(())
        };
        share((0..50).collect(), makers(2, 99, &met), tell).unwrap();
        let pieces: BTreeSet<_> = told.iter().map(|(_, piece)| *piece).collect();
        let workers: BTreeSet<_> = told.iter().map(|(worker, _)| *worker).collect();
        assert_eq!((told.len(), pieces.len()), (50, 50));
        assert_eq!(workers, BTreeSet::from([0, 1]));
    }

    #[test]
    fn an_error_ends_all_and_costs_nothing_that_is_done() {
        let (met, mut told) = (Barrier::new(2), Vec::new());
        let tell = |(_, piece)| {
            told.push(piece);
            Ok(())
        };
        let error = share((0..1000).collect(), makers(2, 1, &met), tell).unwrap_err();
        assert_eq!(error.to_string(), "piece 1");
        assert!(told.contains(&0) && !told.contains(&1), "{told:?}");
        let stopped = share(vec![1, 2, 3], makers(1, 99, &Barrier::new(1)), |_| {
            bail!("full")
        });
        assert_eq!(stopped.unwrap_err().to_string(), "full");
    }
}
