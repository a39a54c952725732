#!/usr/bin/env python3
"""Records what Apache ZooKeeper 3.9.5 says to four-letter words, after the history that the test
crates/server/tests/golden_words.rs repeats, into crates/server/tests/golden/words.txt. Run it after
interop/setup.sh; times, ids and counts in it differ every time, and the test masks them."""
from servers import ROOT, Server
from zkwire import Session, buf, create_body, four_letter_word, i32, text

WORDS = ["ruok", "isro", "gtmk", "srvr", "stat", "conf", "cons", "dump", "wchs", "wchc", "wchp", "dirs", "mntr", "hash",
         "crst", "srst"]


def main():
    with Server("java") as java:
        session = Session(java.port, timeout=20000)
        session.call("create", create_body("/w", b"x"))
        session.call("create", create_body("/w/e", b"x", flags=1))
        for op in ("getData", "getChildren"):
            session.call(op, text("/w") + b"\1")
        session.call("addWatch", text("/elsewhere") + i32(1))
        for _ in range(200):
            session.call("setData", text("/w/e") + buf(b"y") + i32(-1))
        said = [f"== {word}\n{four_letter_word(java.port, word)}" for word in WORDS]
        with Server("java", options={"4lw.commands.whitelist": "ruok"}) as closed:
            said.append("== refused\n" + four_letter_word(closed.port, "stat"))
    out = ROOT / "crates/server/tests/golden/words.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("# Apache ZooKeeper 3.9.5, recorded by interop/record_words.py\n" + "".join(
        part if part.endswith("\n") else part + "\n" for part in said))


if __name__ == "__main__":
    main()
