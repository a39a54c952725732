//! A server's clients: their frames come in whole, and what the node says goes out as far as the network takes it.

use std::io::IoSlice;

use oxkeeper_node::{ConnId, Input};
use oxkeeper_proto::ConnectResponse;

use super::{Conn, Server};
use crate::client::Client;
use crate::frames::Frames;
use crate::network::{Host, LinkId, Side};
use crate::world::Stage;

impl Server {
    pub(super) fn accepted(&mut self, stage: &mut Stage, link: LinkId, from: Host) {
        let Host::Client(client) = from else { return };
        let Some(process) = &mut self.process else { return };
        let index = (0..).find(|slot| !process.conns.contains_key(slot)).unwrap_or(0);
        process.generation += 1;
        let id = ConnId { index, generation: process.generation };
        let conn = Conn {
            link,
            client,
            frames: Frames::default(),
            said: Frames::default(),
            greeted: false,
            read_only: false,
            closing: false,
            reading: true,
        };
        process.conns.insert(index, (id, conn));
        process.by_link.insert(link, index);
        let peer = (Client::address(client), 1024);
        self.step(stage, Input::Opened { conn: id, peer, identities: Vec::new() });
    }

    pub(super) fn read(&mut self, stage: &mut Stage, link: LinkId, bytes: &[u8]) {
        let Some(process) = &mut self.process else { return };
        let Some(slot) = process.by_link.get(&link).copied() else { return };
        if let Some((_, conn)) = process.conns.get_mut(&slot) {
            conn.frames.add(bytes);
        }
        self.read_frames(stage, slot);
    }

    fn read_frames(&mut self, stage: &mut Stage, slot: u32) {
        loop {
            let Some(process) = &mut self.process else { return };
            let Some((id, conn)) = process.conns.get_mut(&slot) else { return };
            if conn.closing || !conn.reading {
                return;
            }
            let (id, link) = (*id, conn.link);
            match conn.frames.take() {
                Ok(Some(frame)) => {
                    stage.observer.heard(self.index, link, &frame, stage.queue.now());
                    self.step(stage, Input::Frame { conn: id, bytes: &frame });
                }
                Ok(None) => return,
                Err(_) => {
                    stage.net.close(&mut stage.queue, link, Side::Acceptor);
                    return self.closed(stage, link);
                }
            }
        }
    }

    pub(super) fn closed(&mut self, stage: &mut Stage, link: LinkId) {
        let Some(process) = &mut self.process else { return };
        let Some(slot) = process.by_link.remove(&link) else { return };
        let Some((id, _)) = process.conns.remove(&slot) else { return };
        process.fx.discard(id);
        self.step(stage, Input::Closed { conn: id });
    }

    pub(super) fn change_reading(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for (id, reading) in std::mem::take(&mut process.fx.reading) {
            let Some(process) = &mut self.process else { return };
            if let Some((_, conn)) = process.conns.get_mut(&id.index).filter(|(own, _)| *own == id) {
                conn.reading = reading;
            }
            if reading {
                self.read_frames(stage, id.index);
            }
        }
    }

    pub(super) fn close_finished(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for id in std::mem::take(&mut process.fx.closes) {
            if let Some((_, conn)) = process.conns.get_mut(&id.index).filter(|(own, _)| *own == id) {
                conn.closing = true;
            }
        }
        let done: Vec<LinkId> = process
            .conns
            .values()
            .filter(|(id, conn)| conn.closing && process.fx.waiting_len(*id) == 0)
            .map(|(_, conn)| conn.link)
            .collect();
        for link in done {
            stage.net.close(&mut stage.queue, link, Side::Acceptor);
            self.closed(stage, link);
        }
    }

    /// Writes what waits for a connection, as far as the network takes it.
    pub(super) fn flush(&mut self, stage: &mut Stage, slot: u32) {
        loop {
            let Some(process) = &mut self.process else { return };
            let Some((id, conn)) = process.conns.get_mut(&slot) else { return };
            let id = *id;
            let mut parts = [IoSlice::new(&[]); 8];
            let used = process.fx.waiting(id, &mut parts);
            let bytes: Vec<u8> = parts.iter().take(used).flat_map(|part| part.iter().copied()).collect();
            if bytes.is_empty() {
                break;
            }
            let taken = stage.net.send(&mut stage.queue, conn.link, Side::Acceptor, &bytes);
            conn.said.add(bytes.get(..taken).unwrap_or_default());
            process.fx.written(id, taken, 1 << 16);
            while let Ok(Some(frame)) = conn.said.take() {
                if std::mem::replace(&mut conn.greeted, true) {
                    if conn.read_only {
                        stage.observer.shown_to_reader(self.index, &self.disk, &frame);
                    } else {
                        stage.observer.replied(self.index, &self.disk, &frame);
                    }
                } else {
                    conn.read_only = says_read_only(&frame);
                    stage.observer.greeted(self.index, conn.client, conn.link, &frame, stage.queue.now());
                }
            }
            let waiting = process.fx.waiting_len(id);
            stage.observer.waits(self.index, waiting);
            if process.fx.take_wanting(id) {
                self.step(stage, Input::Writable { conn: id });
            } else if taken < bytes.len() || waiting == 0 {
                break;
            }
        }
    }
}

fn says_read_only(frame: &[u8]) -> bool {
    ConnectResponse::decode(frame).is_ok_and(|response| response.read_only == Some(true))
}
