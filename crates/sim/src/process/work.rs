//! What a server's disk does: durable work in order, each piece with its end, and chores beside it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use oxkeeper_node::{Durable, Input, PeerInput, Proposal, Recovered, SnapshotStep, Task, Ticket};
use oxkeeper_proto::Zxid;
use oxkeeper_storage::{
    Compression, EpochFile, LogReader, ReadLimits, SnapshotWriter, StorageError, Truncation, epochs, install,
    names, prepare, purge, truncate,
};

use super::{Chore, Server, ServerEvent, members};
use crate::boot::{RECORD_BYTES_MAX, read_state};
use crate::queue::{MS, Nanos};
use crate::world::{Event, Stage};

const LIMITS: ReadLimits = ReadLimits { record_bytes_max: RECORD_BYTES_MAX };

/// A piece of the log thread's work.
#[derive(Debug)]
pub(super) enum Work {
    /// Something to make durable.
    Durable(Ticket, Durable),
    /// Something to read.
    Task(Task),
}

impl Server {
    /// Gives the log thread its next work: all appends that wait, or one piece of another kind.
    pub(super) fn plan_work(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if !process.working.is_empty() {
            return;
        }
        let is_append = |work: &&Work| matches!(work, Work::Durable(_, Durable::Append(_)));
        let appends = process.work.iter().take_while(is_append).count();
        let appends = if self.in_steps { 1 } else { appends.max(1) };
        let count = appends.min(process.work.len());
        // Both look at the snapshots that there are, so what is being written comes first.
        let installs = matches!(
            process.work.front(),
            Some(Work::Durable(_, Durable::InstallSnapshot(_) | Durable::Truncate(_)))
        );
        let writes = process.writer.is_some() || process.chores.iter().any(Chore::is_snapshot);
        if count == 0 || installs && writes {
            return;
        }
        process.working.extend(process.work.drain(..count));
        let delay = self.disk_time();
        stage.queue.after(delay, Event::Server(self.index, self.life, ServerEvent::Durable));
    }

    fn disk_time(&mut self) -> Nanos {
        MS / 20 + self.chance.exponential(self.habits.sync) + self.slow_disk
    }

    /// The log thread has done its work, unless the disk says otherwise.
    pub(super) fn work_done(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        let working = std::mem::take(&mut process.working);
        let mut appended = 0;
        let mut last = None;
        for work in working {
            let done = match work {
                Work::Durable(ticket, Durable::Append(proposal)) => {
                    let Some(process) = &mut self.process else { return };
                    process.log.append(proposal.zxid, &proposal.payload);
                    (appended, last) = (appended + 1, Some(ticket));
                    Ok(())
                }
                Work::Durable(ticket, work) => {
                    last = Some(ticket);
                    self.change(work).map(|told| self.tell(stage, told))
                }
                Work::Task(task) => return self.do_task(stage, task),
            };
            if let Err(error) = done {
                return self.fail(stage, &error.to_string());
            }
        }
        self.commit(stage, appended, last);
    }

    /// What was appended is synced, and the node told.
    fn commit(&mut self, stage: &mut Stage, appended: u64, last: Option<Ticket>) {
        let Some(process) = &mut self.process else { return };
        if let Err(error) = process.log.commit() {
            return self.fail(stage, &error.to_string());
        }
        stage.counts.syncs += 1;
        stage.observer.synced(self.index, &self.disk);
        let due = process.trigger.appended(appended, process.log.bytes_since_roll());
        if process.log.wants_prepared() && !process.preparing {
            process.preparing = true;
            process.chores.push_back(Chore::Prepare(process.log.prepare_bytes()));
        }
        if let Some(last) = last {
            self.step(stage, Input::Persisted(last));
        }
        if due && let Some(process) = &mut self.process {
            process.log.roll_at_next_commit();
            self.step(stage, Input::TakeSnapshot);
        }
    }

    /// Tells the node that a piece of work could not be done, and why it may go on all the same.
    fn tell(&mut self, stage: &mut Stage, told: Option<PeerInput>) {
        let Some(told) = told else { return };
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index}: {told:?}"));
        self.step(stage, Input::Peer(told));
    }

    /// Durable work that is no append, and what the node is to be told of it.
    fn change(&mut self, work: Durable) -> Result<Option<PeerInput>, StorageError> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let (disk, dir) = (&*process.dirs.disk, &process.dirs.snapshots);
        match work {
            Durable::Append(_) => {}
            Durable::Truncate(zxid) => {
                process.log.roll()?;
                if truncate(&process.dirs, zxid, LIMITS)? == Truncation::NothingToBeginFrom {
                    return Ok(Some(PeerInput::CannotTruncate { zxid }));
                }
                self.forget_snapshot_after(zxid);
            }
            Durable::AcceptedEpoch(epoch) => EpochFile::Accepted.write(disk, dir, epoch)?,
            Durable::CurrentEpoch(epoch) => EpochFile::Current.write(disk, dir, epoch)?,
            // The state that came is not on the disk; what was there before stays.
            Durable::InstallSnapshot(_) if process.snapshot_failed => {}
            Durable::InstallSnapshot(zxid) => {
                process.log.roll()?;
                install(&process.dirs, zxid)?;
            }
            Durable::Config { committed, config } => {
                let name = if committed { members::COMMITTED } else { members::SEEN };
                epochs::replace(disk, dir, name, config.to_string().as_bytes())?;
            }
        }
        Ok(None)
    }

    /// A snapshot of what was just taken back must not get its name any more, however far it is.
    fn forget_snapshot_after(&mut self, zxid: Zxid) {
        let Some(process) = &mut self.process else { return };
        let is_newer =
            |chore: &Chore| matches!(chore, Chore::Snapshot(SnapshotStep::Begin(start)) if start.zxid > zxid);
        if process.writing.is_some_and(|writing| writing > zxid) {
            process.writer = None;
            let next = process
                .chores
                .iter()
                .position(|chore| matches!(chore, Chore::Snapshot(SnapshotStep::Begin(_))));
            let mut place = 0;
            process.chores.retain(|chore| {
                place += 1;
                !chore.is_snapshot() || next.is_some_and(|next| place > next)
            });
        }
        if process.chores.iter().any(is_newer) {
            process.chores.retain(|chore| !chore.is_snapshot());
        }
    }

    pub(super) fn do_task(&mut self, stage: &mut Stage, task: Task) {
        let rules = self.rules();
        let seed = self.chance.bits();
        let Some(process) = &mut self.process else { return };
        let input = match task {
            Task::ReadLog { task, from, bytes_max } => {
                let records = read_log(process, from, bytes_max).ok().flatten();
                PeerInput::LogRead { task, records }
            }
            Task::Reload { task } => match read_state(&process.dirs, rules, seed) {
                Ok(state) => {
                    let state = Recovered { tree: state.tree, recent: state.recent };
                    PeerInput::Reloaded { task, state: Box::new(state) }
                }
                Err(error) => return self.fail(stage, &error.to_string()),
            },
        };
        self.step(stage, Input::Peer(input));
    }

    /// The log failed: a server must not go on after that.
    fn fail(&mut self, stage: &mut Stage, error: &str) {
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} stops: {error}"));
        stage.counts.disk_stops += 1;
        let power = self.disk.has_crashed();
        self.note_power_loss(stage);
        self.crash(stage, power);
        // Whoever looks after it starts it again.
        let delay = self.chance.exponential(3_000 * MS);
        stage.queue.after(delay, Event::Restart(self.index));
    }

    pub(super) fn plan_chore(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if process.chores.is_empty() || std::mem::replace(&mut process.chore_planned, true) {
            return;
        }
        let delay = self.disk_time() + self.chance.exponential(self.habits.sync * 4);
        stage.queue.after(delay, Event::Server(self.index, self.life, ServerEvent::Housekeeping));
    }

    pub(super) fn chore_done(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        process.chore_planned = false;
        let Some(chore) = process.chores.pop_front() else { return };
        match chore {
            Chore::Prepare(bytes) => {
                let made = prepare(&self.disk, &process.dirs.logs, bytes, &AtomicBool::new(false));
                process.preparing = false;
                if made.is_ok() {
                    process.log.set_prepared();
                }
            }
            Chore::Snapshot(step) => match self.snapshot_step(step) {
                Ok(Some(input)) => self.step(stage, input),
                Ok(None) => {}
                Err(_) => {
                    if let Some(process) = &mut self.process {
                        process.writer = None;
                        process.snapshot_failed = true;
                        process.chores.retain(|chore| !chore.is_snapshot());
                    }
                    stage.counts.snapshots_failed += 1;
                    self.step(stage, Input::SnapshotFailed);
                }
            },
        }
        if self.disk.has_crashed() {
            self.fail(stage, "the machine lost power while it kept house");
        }
    }

    fn snapshot_step(&mut self, step: SnapshotStep) -> Result<Option<Input<'static>>, StorageError> {
        let keep = self.habits.keep;
        let Some(process) = &mut self.process else { return Ok(None) };
        match step {
            SnapshotStep::Begin(start) => {
                let (disk, dir) = (Arc::clone(&process.dirs.disk), &process.dirs.snapshots);
                process.snapshot_failed = false;
                let writer = SnapshotWriter::create(disk, dir, start.zxid, Compression::None)?;
                process.writing = Some(start.zxid);
                process.writer = Some((writer, start.digest));
                Ok(None)
            }
            SnapshotStep::Slice { bytes, last } => {
                let Some((writer, _)) = &mut process.writer else { return Ok(None) };
                writer.write(&bytes)?;
                if !last {
                    return Ok(Some(Input::SliceWritten));
                }
                if let Some((writer, digest)) = process.writer.take() {
                    writer.finish(digest, true)?;
                    if process.installs() {
                        return Ok(None);
                    }
                    // Purging is nobody's duty: it may fail.
                    let _ = purge::plan(&process.dirs, keep).map(|gone| purge::remove(&process.dirs, &gone));
                }
                Ok(None)
            }
            SnapshotStep::Abandon => {
                process.writer = None;
                Ok(None)
            }
        }
    }
}

impl super::Process {
    /// Whether a leader's snapshot is to be installed. There may be newer ones still, and a purge would take it for old.
    fn installs(&self) -> bool {
        let is_install = |work: &Work| matches!(work, Work::Durable(_, Durable::InstallSnapshot(_)));
        self.work.iter().chain(&self.working).any(is_install)
    }
}

/// The newest transaction that is not after `from`, and everything after that.
fn read_log(
    process: &super::Process,
    from: Zxid,
    bytes_max: u64,
) -> Result<Option<Vec<Proposal>>, StorageError> {
    let dirs = &process.dirs;
    let entries = dirs.disk.list(&dirs.logs).unwrap_or_default();
    let firsts = entries.iter().filter_map(|entry| names::parse_log(&entry.name));
    let Some(first) = firsts.filter(|first| *first <= from).max() else { return Ok(None) };
    let mut reader = LogReader::after(Arc::clone(&dirs.disk), &dirs.logs, Zxid(first.0 - 1), LIMITS)?;
    let (mut records, mut bytes) = (Vec::new(), 0u64);
    while let Some(record) = reader.next_record()? {
        if record.zxid <= from {
            records.clear();
            bytes = 0;
        }
        bytes += record.payload.len() as u64;
        if bytes > bytes_max {
            return Ok(None);
        }
        records.push(Proposal { zxid: record.zxid, payload: record.payload.to_vec().into() });
    }
    // This server's own state may come from a newer snapshot, so only here a break matters: a learner would get a hole.
    reader.check_fit(false)?;
    Ok(Some(records))
}
