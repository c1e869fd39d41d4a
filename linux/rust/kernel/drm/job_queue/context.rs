// SPDX-License-Identifier: GPL-2.0

//! Contexts, their FIFOs, and a job's way into one.
//!
//! Locks: an [`Entity`]'s `order` mutex, then the queue's spinlock. What is in a [`JobInner`]
//! belongs to whoever has the job's [`ListArc`].

use super::{
    account::{
        Account,
        Place, //
    },
    queue::{
        LockClass,
        Shared,
        Watch, //
    },
    state::State,
    turns::{
        Share,
        Ticket,
        Turn, //
    },
    Dependencies,
    Engine,
    Kind,
    Priority,
    Slot,
    CANCELLED,
    MAX_SLOTS, //
};
use crate::{
    dma_buf::fence::{
        ArmedFence,
        Fence,
        FenceAlloc,
        FenceContext,
        Signalling, //
    },
    list::{
        define_list_arc_field_getter,
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        List,
        ListArc,
        ListArcField,
        ListLinks,
        TryNewListArc, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Atomic,
        lock::mutex::MutexGuard,
        static_lock_class,
        Arc,
        LockedBy,
        Mutex,
        UniqueArc, //
    },
};
use core::{
    convert::Infallible,
    mem::MaybeUninit, //
};

/// One FIFO: a context's jobs for one slot.
#[pin_data]
pub(super) struct Entity<K: Kind> {
    #[pin]
    links: ListLinks,
    #[pin]
    tracker: AtomicTracker,
    /// Held from arming to pushing.
    #[pin]
    order: Mutex<()>,
    pub(super) shared: Arc<Shared<K>>,
    /// The slot that it is for.
    pub(super) home: Slot,
    pub(super) priority: Priority,
    pub(super) share: Share,
    pub(super) account: Arc<Account>,
    pub(super) timeline: FenceContext,
    pub(super) state: LockedBy<EntityState<K>, State<K>>,
}

impl_list_arc_safe! {
    impl{K: Kind} ListArcSafe<0> for Entity<K> {
        tracked_by tracker: AtomicTracker;
    }
}

impl_list_item! {
    impl{K: Kind} ListItem<0> for Entity<K> { using ListLinks { self.links }; }
}

/// What of an [`Entity`] the queue's lock protects.
pub(super) struct EntityState<K: Kind> {
    /// Jobs that are not in the hardware, the oldest first.
    pub(super) fifo: List<Job<K>>,
    /// Number of jobs in the hardware. All of them are older than those in the FIFO.
    pub(super) in_hardware: usize,
    /// What to stand in line with; there as long as the entity does not.
    pub(super) ticket: Option<Ticket<K>>,
    /// Where the entity stands in line, if it does.
    pub(super) turn: Option<Turn>,
}

/// A job with all that the queue needs for it.
#[pin_data]
pub(super) struct Job<K: Kind> {
    #[pin]
    links: ListLinks,
    pub(super) entity: Arc<Entity<K>>,
    inner: ListArcField<JobInner<K>>,
    pub(super) payload: K::Job,
    /// It hung, and with it its context was closed.
    pub(super) closing: Atomic<bool>,
    // Given up when all of the job has gone.
    _place: Place,
}

impl_list_arc_safe! {
    impl{K: Kind} ListArcSafe<0> for Job<K> { untracked; }
}

impl_list_item! {
    impl{K: Kind} ListItem<0> for Job<K> { using ListLinks { self.links }; }
}

impl<K: Kind> Job<K> {
    define_list_arc_field_getter! {
        pub(super) fn inner(&mut self<0>) -> &mut JobInner<K> { inner }
    }
}

/// What of a [`Job`] changes.
pub(super) struct JobInner<K: Kind> {
    /// Taken when it is signalled.
    pub(super) fence: Option<ArmedFence>,
    /// What it is or will be signalled with.
    pub(super) result: Result,
    /// The job has its result and does not need the hardware; it waits for those before it.
    pub(super) settled: bool,
    /// Nanoseconds that it has run before it was stopped, such that it goes on from there.
    pub(super) ran_ns: u64,
    dependencies: KVec<ARef<Fence>>,
    /// How many of `dependencies` are known to have signalled.
    met: usize,
    /// Waits for one dependency after the other. Present if there are any.
    watch: Option<Watch<K>>,
}

impl<K: Kind> JobInner<K> {
    /// Whether all dependencies have signalled; if not, the mailbox will hear of the next one.
    pub(super) fn poll(&mut self) -> bool {
        let Some(watch) = &mut self.watch else {
            return true;
        };
        while let Some(fence) = self.dependencies.get(self.met) {
            // An error says that an earlier notice is still in the mailbox: whoever takes it from
            // there polls again.
            if !matches!(watch.start(fence), Ok(false)) {
                return false;
            }
            self.met += 1;
        }
        true
    }
}

/// A client's jobs: one FIFO for each slot of the queue.
///
/// Dropping a context does not cancel its jobs; see [`Context::cancel`]. It may sleep: once the
/// [`JobQueue`](super::JobQueue) is gone, it also drops the jobs that have ended since, with their
/// [`Kind::Job`].
pub struct Context<K: Kind> {
    shared: Arc<Shared<K>>,
    account: Arc<Account>,
    entities: [Option<Arc<Entity<K>>>; MAX_SLOTS],
}

/// The class of a FIFO's mutex; see the queue's for why it is not made in place.
#[inline(never)]
fn order_class() -> LockClass {
    (c"JobQueue::order", static_lock_class!())
}

impl<K: Kind> Context<K> {
    pub(super) fn new(shared: &Arc<Shared<K>>, share: &Share, priority: Priority) -> Result<Self> {
        let account = Account::new(shared.config.max_jobs)?;
        let mut entities = [const { None }; MAX_SLOTS];
        let (order_name, order_key) = order_class();

        for (index, (entity, config)) in entities.iter_mut().zip(shared.config.slots).enumerate() {
            let home = Slot::new(index).ok_or(EINVAL)?;
            let ticket = Ticket::<K>::new(GFP_KERNEL)?;
            let shared_account = account.clone();

            *entity = Some(Arc::pin_init(
                pin_init!(Entity {
                    links <- ListLinks::new(),
                    tracker <- AtomicTracker::new(),
                    order <- Mutex::new((), order_name, order_key),
                    shared: shared.clone(),
                    home,
                    priority,
                    share: share.share(),
                    account: shared_account,
                    timeline: FenceContext::new(shared.config.driver, config.name),
                    state: LockedBy::new(
                        &shared.state,
                        EntityState {
                            fifo: List::new(),
                            in_hardware: 0,
                            ticket: Some(ticket),
                            turn: None,
                        },
                    ),
                }),
                GFP_KERNEL,
            )?);
        }
        Ok(Self {
            shared: shared.clone(),
            account,
            entities,
        })
    }

    fn entity(&self, slot: Slot) -> Option<&Arc<Entity<K>>> {
        self.entities[slot.index()].as_ref()
    }

    pub(super) fn entities(&self) -> impl Iterator<Item = &Arc<Entity<K>>> {
        self.entities.iter().flatten()
    }

    /// Waits until the context has less than [`Config::max_jobs`](super::Config::max_jobs) jobs, and
    /// takes a place for one more.
    ///
    /// Jobs count until they are dropped, so nothing may be held here that is in the way of
    /// [`JobQueue::take_retired`](super::JobQueue::take_retired), nor a place of the same context.
    /// Sleeps. Fails with `ECANCELED` if the context was cancelled or its jobs have hung too often,
    /// with `ERESTARTSYS` if a signal is delivered to the task.
    pub fn admit(&self) -> Result<Place> {
        Place::new(&self.account)
    }

    /// As [`admit`](Self::admit), but does not wait, nor care about what the context has done.
    pub fn try_admit(&self) -> Option<Place> {
        Place::try_new(&self.account)
    }

    /// Whether no job of the context is started any more: it was cancelled, or its jobs have hung too
    /// often.
    pub fn is_closed(&self) -> bool {
        self.account.is_closed()
    }

    /// Allocates all that a job needs, up to its end.
    ///
    /// May sleep. Fails with `ENOMEM`, or with `EINVAL` if the queue has no such slot or the place is
    /// one in another context. The job comes back then, so that the caller can choose when to drop it.
    pub fn prepare(
        &self,
        place: Place,
        slot: Slot,
        job: K::Job,
        dependencies: Dependencies,
    ) -> Result<Prepared<'_, K>, Refused<K::Job>> {
        match self.allocate(&place, slot, dependencies) {
            Err(error) => Err(Refused { error, job }),
            Ok(parts) => {
                let Ok(job) = parts.memory.pin_init_with::<Infallible>(pin_init!(Job {
                    links <- ListLinks::new(),
                    entity: parts.entity.clone(),
                    inner: ListArcField::new(parts.inner),
                    payload: job,
                    closing: Atomic::new(false),
                    _place: place,
                }));

                Ok(Prepared {
                    entity: parts.entity,
                    job: job.into(),
                    fence: parts.fence,
                })
            }
        }
    }

    /// What of [`prepare`](Self::prepare) can fail.
    fn allocate(
        &self,
        place: &Place,
        slot: Slot,
        dependencies: Dependencies,
    ) -> Result<Parts<'_, K>> {
        let entity = self.entity(slot).ok_or(EINVAL)?;
        if !place.is_of(&self.account) {
            return Err(EINVAL);
        }
        // The FIFO sees to the order of its own jobs.
        let dependencies = dependencies.without(entity.timeline.id());
        let watch = if dependencies.is_empty() {
            None
        } else {
            Some(Watch::new(
                self.shared.mailbox.clone(),
                entity.clone(),
                GFP_KERNEL,
            )?)
        };
        let fence = FenceAlloc::new(GFP_KERNEL)?;

        Ok(Parts {
            entity,
            memory: UniqueArc::new_uninit(GFP_KERNEL)?,
            inner: JobInner {
                fence: None,
                result: Ok(()),
                settled: false,
                ran_ns: 0,
                dependencies,
                met: 0,
                watch,
            },
            fence,
        })
    }

    /// Fails the jobs that have not started with `ECANCELED`, and all that are pushed later.
    ///
    /// Those in the hardware go on; the fences of the others signal after theirs. Process context;
    /// does not sleep.
    pub fn cancel(&self) {
        let _signalling = Signalling::begin();
        let mut state = self.shared.state.lock();

        self.account.close();
        for entity in self.entities() {
            state.cancel(entity);
        }
        self.shared.deliver(state);
    }

    /// As [`cancel`](Self::cancel), and stops the jobs that are in the hardware.
    ///
    /// Does not wait for their end, which is reported as that of any other job.
    pub fn cancel_running<E: Engine<K> + ?Sized>(&self, engine: &E) {
        let _signalling = Signalling::begin();

        self.shared.enter(engine, |state, shared| {
            self.account.close();
            for entity in self.entities() {
                state.cancel(entity);
                state.stop(shared, engine, entity);
            }
        });
    }
}

impl<K: Kind> Drop for Context<K> {
    fn drop(&mut self) {
        // Without an owner nobody else drops what was pushed after the queue's end.
        self.shared.drain_orphans();
    }
}

/// What a job needs beside itself.
struct Parts<'c, K: Kind> {
    entity: &'c Arc<Entity<K>>,
    memory: UniqueArc<MaybeUninit<Job<K>>>,
    inner: JobInner<K>,
    fence: FenceAlloc,
}

/// A job that [`Context::prepare`] could not prepare.
#[derive(Debug)]
pub struct Refused<J> {
    /// Why.
    pub error: Error,
    /// The job.
    pub job: J,
}

impl<J> From<Refused<J>> for Error {
    fn from(refused: Refused<J>) -> Self {
        refused.error
    }
}

/// A job that has all that it needs.
///
/// Dropping it leaves no trace, and drops the job.
#[must_use = "the job is dropped if it is not armed and pushed"]
pub struct Prepared<'c, K: Kind> {
    entity: &'c Arc<Entity<K>>,
    job: ListArc<Job<K>>,
    fence: FenceAlloc,
}

impl<'c, K: Kind> Prepared<'c, K> {
    /// The job.
    pub fn job(&self) -> &K::Job {
        &self.job.payload
    }

    /// Makes the job's fence real. The point of no return.
    ///
    /// Waits for whoever is between arming and pushing in the same context and slot. The task must
    /// not have another [`Armed`] job: with two, tasks could wait for each other.
    pub fn arm(self) -> Armed<'c, K> {
        let order = self.entity.order.lock();
        let signalling = Signalling::begin();
        let armed = self.fence.arm(&self.entity.timeline);

        Armed {
            fence: ARef::from(armed.fence()),
            pending: Some((self.job, armed)),
            entity: self.entity,
            _signalling: signalling,
            _order: order,
        }
    }
}

/// A job whose fence may be published. It can only be pushed.
///
/// Dropping it is the same as pushing it after [`Context::cancel`], for this job alone.
#[must_use = "an armed job has to be pushed"]
pub struct Armed<'c, K: Kind> {
    /// Taken by `push` or `drop`.
    pending: Option<(ListArc<Job<K>>, ArmedFence)>,
    fence: ARef<Fence>,
    entity: &'c Arc<Entity<K>>,
    // Dropped in this order: the section ends before the mutex is let go.
    _signalling: Signalling,
    _order: MutexGuard<'c, ()>,
}

impl<K: Kind> Armed<'_, K> {
    /// The fence that signals when the job has ended.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Queues the job and, if it can run at once, hands it to the hardware.
    pub fn push<E: Engine<K> + ?Sized>(mut self, engine: &E) {
        if let Some((mut job, fence)) = self.pending.take() {
            job.inner().fence = Some(fence);
            self.entity.shared.enter(engine, |state, _| {
                state.push(self.entity, job);
            });
        }
    }
}

impl<K: Kind> Drop for Armed<'_, K> {
    fn drop(&mut self) {
        if let Some((mut job, fence)) = self.pending.take() {
            let shared = &self.entity.shared;
            let inner = job.inner();

            inner.fence = Some(fence);
            inner.settle(Err(CANCELLED));

            let mut state = shared.state.lock();
            state.push(self.entity, job);
            shared.deliver(state);
            // There is no engine here to start what comes after it.
            shared.kind().kick();
        }
    }
}

impl<K: Kind> JobInner<K> {
    /// Gives the job its result without the hardware.
    pub(super) fn settle(&mut self, result: Result) {
        if !self.settled {
            self.result = result;
            self.settled = true;
        }
    }
}
