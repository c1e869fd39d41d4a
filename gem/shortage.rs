// SPDX-License-Identifier: GPL-2.0

//! The order in which submissions get memory when there is not enough for all of them.
//!
//! A submission locks the reservation of its address space and brings back all memory that reclaim
//! has taken from there. If many do that at the same time, each may end up with a part of the
//! memory that it needs. These parts are locked, so they cannot be reclaimed, and no submission
//! makes progress. Long before an allocation fails, all of them spend their time in reclaim. So a
//! submission that finds no memory, or has not found all of it after [`SLICE_MS`], releases its
//! locks, waits for its turn and starts again. From then on the memory of address spaces is brought
//! back for one of them at a time, until no submission waits any more. In the meantime the memory
//! of the others can be reclaimed, once their jobs have ended.
//!
//! Turns are granted in the order of the requests. A submission that has the turn must not wait for
//! user space, only for the hardware. If others wait, it gives the turn up when it has brought back
//! nothing for [`SLICE_MS`], or has not finished within [`TURN_MS`]. A client that has reached the
//! limit of its own control group, even without page cache, gets no turn, as the memory of others
//! does not help it. A submission that has waited for turns for [`WAIT_MS`] in all does not wait
//! for another one, but tries without: nobody can be kept waiting by a crowd of others. When the
//! device is removed, all waits end with an error.
//!
//! Lock: the mutex of [`Shortage`], which is only held briefly. A task that waits for a turn must
//! hold no other lock and no guard of the device, so the task that has the turn never depends on
//! one that waits. Process context.

use core::mem;

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        CondVar,
        CondVarTimeoutResult,
        Mutex, //
    },
    time::{
        delay::fsleep,
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use super::reclaim::at_own_limit;

/// For how long a submission tries to find memory, in milliseconds, not counting its waits for a
/// turn. An attempt that has brought back some memory counts a quarter.
const PATIENCE_MS: i64 = 10_000;

/// For how long a turn may make no progress while others wait, in milliseconds. This is long enough
/// for most jobs to end, after which their memory can be reclaimed. Also for how long memory is
/// brought back without a turn.
const SLICE_MS: i64 = 200;

/// For how long a turn may last while others wait, in milliseconds, even if it makes progress. An
/// attempt that is under way at that time is completed.
const TURN_MS: i64 = 2_000;

/// For how long a submission waits for turns, in milliseconds, in all. After that it tries without
/// a turn.
const WAIT_MS: i64 = 10_000;

/// Pause before the next attempt, in milliseconds.
const RETRY_MS: i64 = 10;

/// The state of the turns, guarded by the lock of [`Shortage`].
struct Queue {
    /// A task has the turn, or is about to get it: see `handed`.
    taken: bool,
    /// The turn was passed on, and belongs to the first waiting task that sees this and clears it.
    /// Only set together with `taken`.
    handed: bool,
    /// The number of tasks that wait for a turn.
    waiting: usize,
    /// The device is being removed. Final.
    closed: bool,
}

/// The turns of a device.
#[pin_data]
pub(crate) struct Shortage {
    /// The number of tasks that have a turn or wait for one.
    users: Atomic<usize>,
    /// The number of attempts that did not find all memory, or not in time.
    failed: Atomic<usize>,
    #[pin]
    queue: Mutex<Queue>,
    #[pin]
    free: CondVar,
}

impl Shortage {
    /// Creates the turns of a device, with no task that is short of memory.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            users: Atomic::new(0),
            failed: Atomic::new(0),
            queue <- new_mutex!(
                Queue {
                    taken: false,
                    handed: false,
                    waiting: 0,
                    closed: false,
                },
                "drm_gpu::shortage"
            ),
            free <- new_condvar!("drm_gpu::shortage::free"),
        })
    }

    /// Returns whether any task is short of memory. Takes no lock, so the answer may be outdated.
    pub(crate) fn is_there(&self) -> bool {
        self.users.load(Relaxed) != 0
    }

    /// Returns the number of attempts since the device was bound that did not find all memory, or
    /// not in time.
    pub(crate) fn failed(&self) -> usize {
        self.failed.load(Relaxed)
    }

    /// Ends all waits with `ENODEV`, and refuses new ones, as the device is being removed.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.free.notify_all();
    }

    /// Waits for a turn, for up to `ms` milliseconds. Sleeps. Returns [`None`] if there was none in
    /// that time, `ERESTARTSYS` for signals, and `ENODEV` if the device is being removed.
    fn turn(&self, ms: u32) -> Result<Option<Turn<'_>>> {
        self.users.add(1, Relaxed);
        match self.wait(ms) {
            Ok(true) => {
                let now = Instant::now();

                Ok(Some(Turn {
                    shortage: self,
                    since: now,
                    progress: now,
                }))
            }
            result => {
                let _ = self.users.fetch_sub(1, Relaxed);
                result.map(|_| None)
            }
        }
    }

    /// Returns whether the caller has the turn now.
    fn wait(&self, ms: u32) -> Result<bool> {
        let mut left = msecs_to_jiffies(ms);
        let mut queue = self.queue.lock();

        if queue.closed {
            return Err(ENODEV);
        }
        if !queue.taken {
            queue.taken = true;
            return Ok(true);
        }

        queue.waiting += 1;
        let result = loop {
            let woken = self.free.wait_interruptible_timeout(&mut queue, left);

            if queue.closed {
                break Err(ENODEV);
            }
            if mem::take(&mut queue.handed) {
                break Ok(true);
            }
            match woken {
                CondVarTimeoutResult::Signal { .. } => break Err(ERESTARTSYS),
                CondVarTimeoutResult::Timeout => break Ok(false),
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
            }
        };
        queue.waiting -= 1;
        // The turn was passed on to the waiting tasks, and this may have been the last of them.
        if queue.handed && queue.waiting == 0 {
            queue.handed = false;
            queue.taken = false;
        }
        result
    }

    /// Passes the turn on to the task that has waited for the longest time, or frees it if none
    /// waits.
    fn pass_on(&self) {
        let mut queue = self.queue.lock();

        queue.handed = queue.waiting != 0;
        queue.taken = queue.handed;
        // Done with the lock held: a task that stops waiting after this sees that the turn was
        // passed on.
        self.free.notify_one();
    }

    /// Returns whether any task waits for a turn.
    fn is_awaited(&self) -> bool {
        self.queue.lock().waiting != 0
    }
}

/// The right to bring memory back. Others wait until it is dropped.
struct Turn<'a> {
    shortage: &'a Shortage,
    since: Instant<Monotonic>,
    /// When memory was last brought back.
    progress: Instant<Monotonic>,
}

impl Turn<'_> {
    /// Returns whether the turn has lasted too long, or too long without progress, while another
    /// task waits.
    fn is_up(&self) -> bool {
        let late = self.progress.elapsed().as_millis() >= SLICE_MS
            || self.since.elapsed().as_millis() >= TURN_MS;

        late && self.shortage.is_awaited()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shortage.pass_on();
        let _ = self.shortage.users.fetch_sub(1, Relaxed);
    }
}

/// The attempts of one submission to get all the memory that it needs.
pub(crate) struct Attempts<'a> {
    shortage: &'a Shortage,
    turn: Option<Turn<'a>>,
    /// The time charged for the attempts so far, in milliseconds.
    spent: i64,
    /// The time spent waiting for turns so far, in milliseconds.
    waited: i64,
    /// When the last attempt began.
    begin: Instant<Monotonic>,
}

impl<'a> Attempts<'a> {
    /// Creates a record of no attempts.
    pub(crate) fn new(shortage: &'a Shortage) -> Self {
        Self {
            shortage,
            turn: None,
            spent: 0,
            waited: 0,
            begin: Instant::now(),
        }
    }

    /// Returns whether the submission has the turn. While it has, it must not wait for user space.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Returns whether the submission has to wait for a turn before its next attempt: it has none,
    /// others are short of memory, and the submission `misses_memory` as well, but has neither
    /// reached the limit of its own control group nor waited for [`WAIT_MS`].
    pub(crate) fn comes_later(&self, misses_memory: bool) -> bool {
        self.turn.is_none()
            && self.shortage.is_there()
            && misses_memory
            && self.may_wait()
            && !at_own_limit(None)
    }

    fn may_wait(&self) -> bool {
        self.waited < WAIT_MS
    }

    /// Returns whether memory is brought back too slowly to go on without a turn. `begin` is when
    /// that began.
    pub(crate) fn is_slow(&self, begin: Instant<Monotonic>) -> bool {
        self.turn.is_none()
            && self.may_wait()
            && begin.elapsed().as_millis() >= SLICE_MS
            && !at_own_limit(None)
    }

    /// Waits for a turn, as long as [`WAIT_MS`] permits. Sleeps. Returns `ERESTARTSYS` for signals,
    /// and `ENODEV` if the device is being removed.
    pub(crate) fn wait_for_turn(&mut self) -> Result {
        let begin = Instant::<Monotonic>::now();
        let left = u32::try_from(WAIT_MS - self.waited).unwrap_or(0);

        self.turn = self.shortage.turn(left)?;
        self.waited += match self.turn {
            Some(_) => begin.elapsed().as_millis(),
            // By the ticks of the timer it was all that was left.
            None => left.into(),
        };
        Ok(())
    }

    /// Notes that an attempt begins.
    pub(crate) fn begin(&mut self) {
        self.begin = Instant::now();
    }

    /// Returns how long the current attempt has taken so far, in milliseconds. Limited to a quarter
    /// of [`PATIENCE_MS`], so that even a slow attempt is followed by others.
    fn elapsed(&self) -> i64 {
        self.begin.elapsed().as_millis().min(PATIENCE_MS / 4)
    }

    /// Charges an attempt that took `ms` milliseconds. Returns `ENOMEM` if the patience is used up.
    fn spend(&mut self, ms: i64) -> Result {
        self.spent += ms;
        match self.spent < PATIENCE_MS {
            true => Ok(()),
            false => Err(ENOMEM),
        }
    }

    /// Notes that user memory was lost during an attempt. Gives the turn up, since user space may
    /// be needed to bring that memory back. Returns `ENOMEM` if the patience is used up.
    pub(crate) fn lost_user_memory(&mut self) -> Result {
        self.turn = None;
        self.spend(self.elapsed())
    }

    /// Notes that an attempt has run out of memory or was too slow, possibly after some `progress`,
    /// and waits until another one makes sense. Sleeps. Returns `ERESTARTSYS` for signals, `ENODEV`
    /// if the device is being removed, and `ENOMEM` if the patience is used up.
    pub(crate) fn found_none(&mut self, progress: bool) -> Result {
        let ms = self.elapsed() + RETRY_MS;

        self.shortage.failed.add(1, Relaxed);
        self.spend(if progress { ms / 4 } else { ms })?;
        if at_own_limit(None) {
            self.turn = None;
        } else {
            if let (Some(turn), true) = (&mut self.turn, progress) {
                turn.progress = Instant::now();
            }
            if self.turn.as_ref().is_some_and(Turn::is_up) {
                self.turn = None;
            }
            if self.turn.is_none() && self.may_wait() {
                return self.wait_for_turn();
            }
        }
        // The memory of others can be reclaimed when their jobs have ended.
        fsleep(Delta::from_millis(RETRY_MS));
        Ok(())
    }
}

#[kunit_tests(drm_gpu_shortage)]
mod tests {
    use super::*;
    use pin_init::stack_pin_init;

    #[test]
    fn turns_come_and_go() -> Result {
        stack_pin_init!(let shortage = Shortage::new());

        assert!(!shortage.is_there());
        let turn = shortage.turn(0)?.ok_or(EBUSY)?;
        assert!(shortage.is_there());
        // No task waits for the turn, so it may take any time.
        assert!(!turn.is_up());
        drop(turn);
        assert!(!shortage.is_there());

        let mut attempts = Attempts::new(&shortage);
        assert!(!attempts.comes_later(true));
        attempts.wait_for_turn()?;
        assert!(attempts.has_turn());
        attempts.lost_user_memory()?;
        assert!(!shortage.is_there());
        Ok(())
    }

    #[test]
    fn a_turn_is_up_when_it_brings_nothing() -> Result {
        stack_pin_init!(let shortage = Shortage::new());
        let turn = shortage.turn(0)?.ok_or(EBUSY)?;

        // As if another task waited.
        shortage.queue.lock().waiting = 1;
        // Sleeps end early by the clock where the timer ticks are late.
        while turn.progress.elapsed().as_millis() < SLICE_MS {
            fsleep(Delta::from_millis(1));
        }
        assert!(turn.is_up());
        shortage.queue.lock().waiting = 0;
        assert!(!turn.is_up());
        Ok(())
    }

    #[test]
    fn a_turn_is_handed_over() -> Result {
        stack_pin_init!(let shortage = Shortage::new());
        let turn = shortage.turn(0)?.ok_or(EBUSY)?;

        // As if another task waited.
        shortage.queue.lock().waiting = 1;
        drop(turn);
        let queue = shortage.queue.lock();
        // A task that comes now cannot take it first.
        assert!(queue.taken && queue.handed);
        Ok(())
    }

    #[test]
    fn nobody_waits_for_ever() -> Result {
        stack_pin_init!(let shortage = Shortage::new());
        let turn = shortage.turn(0)?.ok_or(EBUSY)?;

        assert!(shortage.turn(1)?.is_none());
        let mut attempts = Attempts::new(&shortage);
        attempts.waited = WAIT_MS - 1;
        assert!(attempts.may_wait());
        attempts.wait_for_turn()?;
        assert!(!attempts.has_turn() && !attempts.may_wait());
        assert!(!attempts.comes_later(true));
        // It goes on without, and leaves the turn to the one that has it.
        attempts.found_none(true)?;
        assert!(!attempts.has_turn());
        drop(turn);
        assert!(!shortage.is_there());
        Ok(())
    }

    #[test]
    fn nobody_waits_for_a_device_that_goes() -> Result {
        stack_pin_init!(let shortage = Shortage::new());
        let turn = shortage.turn(0)?.ok_or(EBUSY)?;

        shortage.close();
        assert_eq!(shortage.turn(0).err(), Some(ENODEV));
        drop(turn);
        assert_eq!(shortage.turn(0).err(), Some(ENODEV));
        assert!(!shortage.is_there());
        Ok(())
    }

    #[test]
    fn attempts_end() {
        stack_pin_init!(let shortage = Shortage::new());
        let mut attempts = Attempts::new(&shortage);

        assert_eq!(attempts.spend(PATIENCE_MS - 1), Ok(()));
        assert_eq!(attempts.spend(1), Err(ENOMEM));
        assert_eq!(attempts.lost_user_memory(), Err(ENOMEM));
        assert_eq!(attempts.found_none(false), Err(ENOMEM));
        assert!(!attempts.has_turn());
    }
}
