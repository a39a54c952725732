//! Stage 9: who watches what, and whom a change concerns.
//!
//! A watch costs about forty bytes: paths are interned, each (path, manager) has a list of watchers, and
//! each connection a map from lists to its place and its modes there.
//!
//! Source: `DataTree`, `WatchManager`, `WatcherMode`, 3.9.

use oxkeeper_proto::{EventType, path};
use oxkeeper_tree::{Change, ChangeKind, Map, Seeded};

/// A watcher, by the number of its connection's slot.
pub(crate) type Watcher = u32;

/// A watcher within the lists. A slot is used again at once; the number of a watcher that had very many watches is not
/// before the last of them is gone.
type Number = u32;

/// Watches that are freed in one step.
const FREED_AT_ONCE: usize = 2000;

/// How long and how far a watch looks. Modes of one watcher on one path live side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until the first event.
    Standard,
    /// Until it is removed.
    Persistent,
    /// Until it is removed, on the znode and all below.
    Recursive,
}

impl Mode {
    const fn bit(self) -> u8 {
        match self {
            Mode::Standard => 1,
            Mode::Persistent => 2,
            Mode::Recursive => 4,
        }
    }
}

/// The two tables of watches: on a znode itself, and on its set of children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    Data,
    Child,
}

/// Which watches a client means when it asks for or removes some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Children,
    Data,
    Any,
    Persistent,
    Recursive,
}

impl Kind {
    pub(crate) fn from_number(number: i32) -> Option<Kind> {
        Some(match number {
            1 => Kind::Children,
            2 => Kind::Data,
            3 => Kind::Any,
            4 => Kind::Persistent,
            5 => Kind::Recursive,
            _ => return None,
        })
    }

    /// The modes meant in each table.
    const fn bits(self, manager: Manager) -> u8 {
        match (self, manager) {
            (Kind::Any, _) => 7,
            (Kind::Children, Manager::Child) | (Kind::Data, Manager::Data) => Mode::Standard.bit(),
            (Kind::Persistent, _) => Mode::Persistent.bit(),
            (Kind::Recursive, Manager::Data) => Mode::Recursive.bit(),
            _ => 0,
        }
    }
}

/// An event for one watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) watcher: Watcher,
    pub(crate) kind: EventType,
    /// Whether the event is about the parent of the changed znode.
    pub(crate) on_parent: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// Index into the list's watchers.
    place: u32,
    bits: u8,
}

/// Number of a (path, manager): twice the path's number, plus one for children.
type ListId = u32;

/// All watches of a server.
#[derive(Debug)]
pub(crate) struct Watches {
    seeded: Seeded,
    ids: Map<Box<str>, u32>,
    /// By path number.
    paths: Vec<Option<Box<str>>>,
    free: Vec<u32>,
    /// By list number.
    lists: Vec<Vec<Number>>,
    /// By slot.
    numbers: Vec<Option<Number>>,
    /// By number; `None` if it is free or its watcher has left.
    owners: Vec<Option<Watcher>>,
    free_numbers: Vec<Number>,
    /// Those who have left, and in which lists they may still be.
    left: Vec<(Number, Vec<ListId>)>,
    /// By number.
    held: Vec<Option<Map<ListId, Held>>>,
    recursive: usize,
    total: usize,
    /// Counts firings, so that a watcher that matches several times is told once.
    round: u64,
    /// By number: the last firing that told it.
    told: Vec<u64>,
}

/// Numbers for the `wchs` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchSummary {
    /// Connections that watch something.
    pub connections: usize,
    /// Paths that are watched.
    pub paths: usize,
    /// Watches in all.
    pub total: usize,
}

impl Watches {
    pub(crate) fn new(seed: u64) -> Watches {
        let seeded = Seeded::new(seed);
        Watches {
            ids: Map::with_hasher(seeded.clone()),
            seeded,
            paths: Vec::new(),
            free: Vec::new(),
            lists: Vec::new(),
            numbers: Vec::new(),
            owners: Vec::new(),
            free_numbers: Vec::new(),
            left: Vec::new(),
            held: Vec::new(),
            recursive: 0,
            total: 0,
            round: 0,
            told: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Number of watches, as `mntr` counts them.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Sets a one-shot watch.
    pub(crate) fn add_standard(&mut self, watcher: Watcher, manager: Manager, path: &str) {
        self.add(watcher, manager, path, Mode::Standard);
    }

    /// Sets a persistent watch: on the znode and its children, or on the whole subtree.
    pub(crate) fn add_persistent(&mut self, watcher: Watcher, path: &str, recursive: bool) {
        if recursive {
            self.add(watcher, Manager::Data, path, Mode::Recursive);
        } else {
            self.add(watcher, Manager::Data, path, Mode::Persistent);
            self.add(watcher, Manager::Child, path, Mode::Persistent);
        }
    }

    fn add(&mut self, watcher: Watcher, manager: Manager, path: &str, mode: Mode) {
        let list = self.intern(path) * 2 + u32::from(manager == Manager::Child);
        let watcher = self.number(watcher);
        let seeded = &self.seeded;
        let Some(slot) = self.held.get_mut(watcher as usize) else { return };
        let mine = slot.get_or_insert_with(|| Map::with_hasher(seeded.clone()));
        let watchers = &mut self.lists[list as usize];
        let held = mine.entry(list).or_insert_with(|| {
            watchers.push(watcher);
            self.total += 1;
            Held { place: watchers.len() as u32 - 1, bits: 0 }
        });
        if mode == Mode::Recursive && held.bits & mode.bit() == 0 {
            self.recursive += 1;
        }
        held.bits |= mode.bit();
    }

    /// The number of a watcher; gives it one if it has none.
    fn number(&mut self, watcher: Watcher) -> Number {
        if let Some(number) = self.number_of(watcher) {
            return number;
        }
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.owners.push(None);
            self.held.push(None);
            self.told.push(0);
            self.owners.len() as Number - 1
        });
        let index = watcher as usize;
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, None);
        }
        self.numbers[index] = Some(number);
        self.owners[number as usize] = Some(watcher);
        number
    }

    fn number_of(&self, watcher: Watcher) -> Option<Number> {
        self.numbers.get(watcher as usize).copied().flatten()
    }

    fn intern(&mut self, path: &str) -> u32 {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.paths.push(None);
                self.lists.push(Vec::new());
                self.lists.push(Vec::new());
                self.paths.len() as u32 - 1
            }
        };
        self.paths[id as usize] = Some(path.into());
        self.ids.insert(path.into(), id);
        id
    }

    fn list(&self, manager: Manager, path: &str) -> Option<ListId> {
        self.ids.get(path).map(|id| id * 2 + u32::from(manager == Manager::Child))
    }

    fn bits(&self, watcher: Number, list: ListId) -> u8 {
        self.held.get(watcher as usize).and_then(|mine| mine.as_ref()?.get(&list)).map_or(0, |held| held.bits)
    }

    /// Whether the watcher has such a watch on exactly this path.
    pub(crate) fn has(&self, watcher: Watcher, path: &str, kind: Kind) -> bool {
        let Some(watcher) = self.number_of(watcher) else { return false };
        [Manager::Data, Manager::Child].into_iter().any(|manager| {
            self.list(manager, path).is_some_and(|list| self.bits(watcher, list) & kind.bits(manager) != 0)
        })
    }

    /// Removes such watches from exactly this path; tells whether there were any.
    pub(crate) fn remove(&mut self, watcher: Watcher, path: &str, kind: Kind) -> bool {
        let Some(watcher) = self.number_of(watcher) else { return false };
        let mut any = false;
        for manager in [Manager::Data, Manager::Child] {
            let wanted = kind.bits(manager);
            if let Some(list) = self.list(manager, path)
                && self.bits(watcher, list) & wanted != 0
            {
                any = true;
                self.clear(watcher, list, wanted);
            }
        }
        any
    }

    /// Clears modes; a watcher without modes leaves the list, and a path without watchers goes.
    fn clear(&mut self, watcher: Number, list: ListId, bits: u8) {
        let Some(Some(mine)) = self.held.get_mut(watcher as usize) else { return };
        let Some(held) = mine.get_mut(&list) else { return };
        if held.bits & bits & Mode::Recursive.bit() != 0 {
            self.recursive -= 1;
        }
        held.bits &= !bits;
        if held.bits != 0 {
            return;
        }
        let place = held.place;
        mine.remove(&list);
        if mine.is_empty() {
            self.held[watcher as usize] = None;
        }
        self.leave(list, place);
    }

    fn leave(&mut self, list: ListId, place: u32) {
        self.total -= 1;
        let watchers = &mut self.lists[list as usize];
        watchers.swap_remove(place as usize);
        if let Some(moved) = watchers.get(place as usize).copied()
            && let Some(Some(map)) = self.held.get_mut(moved as usize)
            && let Some(held) = map.get_mut(&list)
        {
            held.place = place;
        }
        let id = list / 2;
        let (data, child) = (id as usize * 2, id as usize * 2 + 1);
        if self.lists[data].is_empty() && self.lists[child].is_empty() {
            self.lists[data] = Vec::new();
            self.lists[child] = Vec::new();
            if let Some(path) = self.paths[id as usize].take() {
                self.ids.remove(&path);
            }
            self.free.push(id);
        }
    }

    /// A connection has no watches any more. Very many are freed in pieces, by [`Watches::free_some`].
    pub(crate) fn drop_watcher(&mut self, watcher: Watcher) {
        let Some(number) = self.numbers.get_mut(watcher as usize).and_then(Option::take) else { return };
        self.owners[number as usize] = None;
        let held = self.held[number as usize].as_ref();
        let lists: Vec<ListId> = held.map(|held| held.keys().copied().collect()).unwrap_or_default();
        let is_few = lists.len() <= FREED_AT_ONCE;
        self.left.push((number, lists));
        if is_few {
            self.free_some();
        }
    }

    /// Whether somebody has left whose watches are not all freed.
    pub(crate) fn is_freeing(&self) -> bool {
        !self.left.is_empty()
    }

    /// Frees a few watches of whoever left last.
    pub(crate) fn free_some(&mut self) {
        let Some((number, mut lists)) = self.left.pop() else { return };
        for list in lists.split_off(lists.len().saturating_sub(FREED_AT_ONCE)) {
            self.clear(number, list, u8::MAX);
        }
        if lists.is_empty() {
            self.held[number as usize] = None;
            self.free_numbers.push(number);
        } else {
            self.left.push((number, lists));
        }
    }

    /// Whom a change concerns, in the order in which they must hear of it. One-shot watches are used up.
    pub(crate) fn trigger(&mut self, change: &Change, out: &mut Vec<Notice>) {
        let path = &*change.path;
        match change.kind {
            ChangeKind::Created => {
                self.fire(Manager::Data, path, EventType::NodeCreated, false, out);
            }
            ChangeKind::Deleted => {
                self.fire(Manager::Data, path, EventType::NodeDeleted, false, out);
                let told = out.len();
                self.fire(Manager::Child, path, EventType::NodeDeleted, false, out);
                forget_the_told(out, told);
            }
            ChangeKind::DataChanged => {
                self.fire(Manager::Data, path, EventType::NodeDataChanged, false, out);
                return;
            }
        }
        if let Some(parent) = path::parent(path) {
            self.fire(Manager::Child, parent, EventType::NodeChildrenChanged, true, out);
        }
    }

    fn fire(
        &mut self,
        manager: Manager,
        path: &str,
        kind: EventType,
        on_parent: bool,
        out: &mut Vec<Notice>,
    ) {
        self.round += 1;
        if let Some(list) = self.list(manager, path) {
            let watchers = self.lists[list as usize].clone();
            for watcher in watchers {
                self.told[watcher as usize] = self.round;
                if let Some(watcher) = self.owners[watcher as usize] {
                    out.push(Notice { watcher, kind, on_parent });
                }
                if self.bits(watcher, list) & Mode::Standard.bit() != 0 {
                    self.clear(watcher, list, Mode::Standard.bit());
                }
            }
        }
        if self.recursive == 0 || manager == Manager::Child {
            return;
        }
        let mut at = path;
        while at != "/"
            && let Some(parent) = path::parent(at)
        {
            at = parent;
            let Some(list) = self.list(Manager::Data, at) else { continue };
            for &watcher in &self.lists[list as usize] {
                if self.bits(watcher, list) & Mode::Recursive.bit() != 0
                    && std::mem::replace(&mut self.told[watcher as usize], self.round) != self.round
                    && let Some(watcher) = self.owners[watcher as usize]
                {
                    out.push(Notice { watcher, kind, on_parent });
                }
            }
        }
    }

    /// Counts the data watches: Java's lists of watches leave those on children out.
    pub(crate) fn summary(&self) -> WatchSummary {
        let data = |list: &&Vec<Number>| !list.is_empty();
        let lists = self.lists.iter().step_by(2);
        WatchSummary {
            connections: self
                .held
                .iter()
                .flatten()
                .filter(|held| held.keys().any(|list| list % 2 == 0))
                .count(),
            paths: lists.clone().filter(data).count(),
            total: lists.map(Vec::len).sum(),
        }
    }

    /// Paths with data watches and their watchers, from a path's number on: about `most` watches, and the number where
    /// to go on.
    pub(crate) fn by_path(&self, from: u32, most: usize) -> (Vec<(String, Vec<Watcher>)>, Option<u32>) {
        let (mut all, mut cost) = (Vec::new(), 0);
        for (id, path) in self.paths.iter().enumerate().skip(from as usize) {
            if cost >= most {
                return (all, u32::try_from(id).ok());
            }
            cost += 1;
            let Some(path) = path else { continue };
            let numbers = &self.lists[id * 2];
            cost += numbers.len();
            let watchers: Vec<Watcher> =
                numbers.iter().filter_map(|number| self.owners[*number as usize]).collect();
            if !watchers.is_empty() {
                all.push((path.to_string(), watchers));
            }
        }
        (all, None)
    }

    /// The first watcher from `watcher` on that watches data, with what it watches from a path's number
    /// on: about `most` paths; and where to go on.
    pub(crate) fn by_watcher(
        &self,
        watcher: Watcher,
        from: u32,
        most: usize,
    ) -> (Watcher, Vec<String>, Option<(Watcher, u32)>) {
        let all = self.numbers.iter().enumerate().skip(watcher as usize);
        let held = |number: Number| self.held[number as usize].as_ref();
        let mut watching = all.filter_map(|(index, number)| Some((index as Watcher, held((*number)?)?)));
        let Some((found, held)) = watching.next() else { return (watcher, Vec::new(), None) };
        let from = if found == watcher { from } else { 0 };
        let data = held.keys().filter(|list| *list % 2 == 0).map(|list| list / 2);
        let mut ids: Vec<u32> = data.filter(|id| *id >= from).collect();
        let next = (ids.len() > most).then(|| {
            let (_, first_left, _) = ids.select_nth_unstable(most);
            (found, *first_left)
        });
        ids.truncate(most);
        ids.sort_unstable();
        let paths =
            ids.into_iter().filter_map(|id| self.paths.get(id as usize)?.as_deref().map(str::to_owned));
        (found, paths.collect(), next.or_else(|| watching.next().map(|(next, _)| (next, 0))))
    }
}

/// A connection that heard of a deletion through its data watch does not hear of it through its child watch.
fn forget_the_told(out: &mut Vec<Notice>, told: usize) {
    let mut before: Vec<Watcher> = out.iter().take(told).map(|notice| notice.watcher).collect();
    before.sort_unstable();
    let mut at = 0;
    out.retain(|notice| {
        at += 1;
        at <= told || before.binary_search(&notice.watcher).is_err()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, path: &str) -> Change {
        Change { kind, path: path.to_owned(), acl: None, parent_acl: None }
    }

    fn fire(watches: &mut Watches, kind: ChangeKind, path: &str) -> Vec<(Watcher, EventType, bool)> {
        let mut out = Vec::new();
        watches.trigger(&change(kind, path), &mut out);
        out.sort_by_key(|n| (n.on_parent, n.watcher));
        out.into_iter().map(|n| (n.watcher, n.kind, n.on_parent)).collect()
    }

    #[test]
    fn one_shot_watches_fire_once() {
        let mut w = Watches::new(1);
        w.add_standard(1, Manager::Data, "/a");
        w.add_standard(1, Manager::Data, "/a");
        w.add_standard(2, Manager::Child, "/");
        assert_eq!(
            fire(&mut w, ChangeKind::Created, "/a"),
            [(1, EventType::NodeCreated, false), (2, EventType::NodeChildrenChanged, true)]
        );
        assert_eq!(fire(&mut w, ChangeKind::Deleted, "/a"), []);
        assert!(w.is_empty() && w.ids.is_empty());
    }

    #[test]
    fn deletion_is_told_once_to_data_and_child_watchers() {
        let mut w = Watches::new(1);
        w.add_standard(1, Manager::Data, "/a");
        w.add_standard(1, Manager::Child, "/a");
        w.add_standard(2, Manager::Child, "/a");
        let told = fire(&mut w, ChangeKind::Deleted, "/a");
        assert_eq!(told, [(1, EventType::NodeDeleted, false), (2, EventType::NodeDeleted, false)]);
        assert!(w.is_empty());
    }

    #[test]
    fn modes_live_side_by_side() {
        let mut w = Watches::new(1);
        w.add_persistent(1, "/a", false);
        w.add_standard(1, Manager::Data, "/a");
        w.add_persistent(1, "/a", true);
        assert!(
            w.has(1, "/a", Kind::Data) && w.has(1, "/a", Kind::Recursive) && !w.has(1, "/a", Kind::Children)
        );
        assert_eq!(fire(&mut w, ChangeKind::DataChanged, "/a").len(), 1, "matched twice, told once");
        assert!(!w.has(1, "/a", Kind::Data) && w.has(1, "/a", Kind::Persistent));
        assert!(w.remove(1, "/a", Kind::Persistent) && !w.remove(1, "/a", Kind::Persistent));
        assert_eq!(fire(&mut w, ChangeKind::Created, "/a/b/c"), [(1, EventType::NodeCreated, false)]);
        assert!(w.remove(1, "/a", Kind::Any));
        assert_eq!((w.total(), w.recursive), (0, 0));
    }

    #[test]
    fn recursive_never_hears_of_children_lists() {
        let mut w = Watches::new(1);
        w.add_persistent(1, "/", true);
        assert_eq!(fire(&mut w, ChangeKind::Created, "/a"), [(1, EventType::NodeCreated, false)]);
    }

    #[test]
    fn lists_come_in_pieces_and_leave_nothing_out() {
        let mut w = Watches::new(1);
        for i in 0..40 {
            for watcher in [2, 5, 9] {
                w.add_persistent(watcher, &format!("/{i}"), watcher == 5);
            }
            w.add_standard(7, Manager::Child, &format!("/{i}"));
        }
        let (mut by_path, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let (some, next) = w.by_path(place, 7);
            assert!(some.len() <= 3, "{} paths at once", some.len());
            by_path.extend(some);
            from = next;
        }
        by_path.sort();
        let mut expected: Vec<(String, Vec<Watcher>)> =
            (0..40).map(|i| (format!("/{i}"), vec![2, 5, 9])).collect();
        expected.sort();
        assert_eq!(by_path, expected);
        let (mut by_watcher, mut from) = (Vec::new(), Some((0, 0)));
        while let Some((watcher, place)) = from {
            let (found, some, next) = w.by_watcher(watcher, place, 7);
            assert!(some.len() <= 7);
            by_watcher.extend(some.into_iter().map(|path| (found, path)));
            from = next;
        }
        by_watcher.sort();
        let each = |watcher| expected.iter().map(move |(path, _)| (watcher, path.clone()));
        assert_eq!(by_watcher, [2, 5, 9].into_iter().flat_map(each).collect::<Vec<_>>());
    }

    #[test]
    fn everything_goes_with_its_watcher() {
        let mut w = Watches::new(1);
        for i in 0..100 {
            for watcher in 0..10 {
                w.add_standard(watcher, Manager::Data, &format!("/{i}"));
                w.add_persistent(watcher, &format!("/{i}"), watcher % 2 == 0);
            }
        }
        assert_eq!(
            (w.summary(), w.total()),
            (WatchSummary { connections: 10, paths: 100, total: 1000 }, 1500)
        );
        for watcher in [3, 0, 9, 1, 2, 8, 4, 7, 5, 6] {
            w.drop_watcher(watcher);
        }
        assert_eq!((w.total(), w.recursive, w.ids.len()), (0, 0, 0));
        assert_eq!(w.free.len(), 100);
        assert!(!w.is_freeing());
    }

    #[test]
    fn very_many_watches_are_freed_in_pieces_and_tell_nobody_meanwhile() {
        let mut w = Watches::new(1);
        let many = FREED_AT_ONCE * 3 + 5;
        for i in 0..many {
            w.add_standard(4, Manager::Data, &format!("/{i}"));
            w.add_persistent(4, &format!("/{i}"), true);
            w.add_standard(9, Manager::Data, &format!("/{i}"));
        }
        w.drop_watcher(4);
        assert!(w.is_freeing() && !w.has(4, "/7", Kind::Any));
        // Another connection has the slot by now, and its own watches.
        w.add_standard(4, Manager::Child, "/7");
        let mut pieces = 0;
        while w.is_freeing() {
            let fired = format!("/{}", pieces * 7 + 1);
            assert_eq!(
                fire(&mut w, ChangeKind::DataChanged, &fired),
                [(9, EventType::NodeDataChanged, false)]
            );
            assert_eq!(fire(&mut w, ChangeKind::DataChanged, &format!("{fired}/below")), []);
            w.free_some();
            pieces += 1;
        }
        assert_eq!((pieces, w.total(), w.recursive), (4, many - 4 + 1, 0));
        assert!(w.has(4, "/7", Kind::Children) && !w.has(4, "/7", Kind::Data));
        assert_eq!(fire(&mut w, ChangeKind::Created, "/7/x"), [(4, EventType::NodeChildrenChanged, true)]);
        w.drop_watcher(9);
        while w.is_freeing() {
            w.free_some();
        }
        w.drop_watcher(4);
        assert_eq!((w.total(), w.ids.len()), (0, 0));
    }

    /// Every watch as a row of a list; nothing is indexed.
    #[derive(Default)]
    struct Rows(Vec<(Watcher, Manager, String, Mode)>);

    impl Rows {
        fn add(&mut self, row: (Watcher, Manager, String, Mode)) {
            if !self.0.contains(&row) {
                self.0.push(row);
            }
        }

        fn fire(&mut self, manager: Manager, path: &str, told: &mut Vec<Watcher>) {
            let above = |watched: &str| watched == "/" || path.starts_with(&format!("{watched}/"));
            let mut now: Vec<Watcher> = self
                .0
                .iter()
                .filter(|(_, m, p, mode)| {
                    *m == manager && (p == path || *mode == Mode::Recursive && above(p))
                })
                .map(|(watcher, ..)| *watcher)
                .collect();
            self.0.retain(|(_, m, p, mode)| !(*m == manager && p == path && *mode == Mode::Standard));
            now.sort_unstable();
            now.dedup();
            told.extend(now);
        }

        fn trigger(&mut self, kind: ChangeKind, path: &str) -> Vec<(Watcher, bool)> {
            let (mut told, mut parents) = (Vec::new(), Vec::new());
            self.fire(Manager::Data, path, &mut told);
            if kind == ChangeKind::Deleted {
                self.fire(Manager::Child, path, &mut told);
            }
            if kind != ChangeKind::DataChanged {
                self.fire(Manager::Child, path::parent(path).unwrap(), &mut parents);
            }
            told.sort_unstable();
            told.dedup();
            told.into_iter().map(|w| (w, false)).chain(parents.into_iter().map(|w| (w, true))).collect()
        }
    }

    /// Random watches and changes against the list of rows.
    #[test]
    fn does_what_a_plain_list_does() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % n
        };
        const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/x"];
        for _ in 0..2000 {
            let (mut watches, mut rows) = (Watches::new(below(1000)), Rows::default());
            for _ in 0..60 {
                let path = PATHS[below(6) as usize];
                let watcher = below(4) as Watcher;
                match below(12) {
                    0..3 => {
                        let manager = if below(2) == 0 { Manager::Data } else { Manager::Child };
                        watches.add_standard(watcher, manager, path);
                        rows.add((watcher, manager, path.to_owned(), Mode::Standard));
                    }
                    3 => {
                        watches.add_persistent(watcher, path, false);
                        rows.add((watcher, Manager::Data, path.to_owned(), Mode::Persistent));
                        rows.add((watcher, Manager::Child, path.to_owned(), Mode::Persistent));
                    }
                    4 => {
                        watches.add_persistent(watcher, path, true);
                        rows.add((watcher, Manager::Data, path.to_owned(), Mode::Recursive));
                    }
                    5 | 6 => {
                        let kind = Kind::from_number(1 + below(5) as i32).unwrap();
                        let meant = |row: &(Watcher, Manager, String, Mode)| {
                            row.0 == watcher && row.2 == path && kind.bits(row.1) & row.3.bit() != 0
                        };
                        let there = rows.0.iter().any(meant);
                        assert_eq!(watches.has(watcher, path, kind), there);
                        assert_eq!(watches.remove(watcher, path, kind), there);
                        rows.0.retain(|row| !meant(row));
                    }
                    7 => {
                        watches.drop_watcher(watcher);
                        rows.0.retain(|row| row.0 != watcher);
                    }
                    n => {
                        let kind = [ChangeKind::Created, ChangeKind::Deleted, ChangeKind::DataChanged]
                            [n as usize % 3];
                        if path != "/" || kind == ChangeKind::DataChanged {
                            let found: Vec<_> = fire(&mut watches, kind, path)
                                .into_iter()
                                .map(|(w, _, parent)| (w, parent))
                                .collect();
                            assert_eq!(found, rows.trigger(kind, path), "{kind:?} {path}");
                        }
                    }
                }
                let mut places: Vec<_> =
                    rows.0.iter().map(|(w, m, p, _)| (*w, *m == Manager::Child, p)).collect();
                places.sort();
                places.dedup();
                assert_eq!(watches.total(), places.len());
            }
            for watcher in 0..4 {
                watches.drop_watcher(watcher);
            }
            assert_eq!((watches.total(), watches.recursive, watches.ids.len()), (0, 0, 0));
        }
    }
}
