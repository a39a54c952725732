"""Four-letter words of both servers after the same history: the same text, numbers and names of this run aside."""
import re
import sys

from servers import Checks, Server
from zkwire import Session, buf, create_body, four_letter_word, i32, text

WORDS = ["conf", "cons", "crst", "srst", "dirs", "dump", "gtmk", "hash", "isro", "ruok", "srvr", "stat", "wchc", "wchp",
         "wchs", "xxxx"]


def shape(out):
    out = re.sub(r"3\.9\.5-\S+ built on \S+ \S+ UTC", "VERSION", out)
    out = re.sub(r"(dataDir|dataLogDir)=\S+", r"\1=PATH", out)
    out = re.sub(r"0x[0-9a-f]+", "0xN", out)
    out = re.sub(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \S+ \d\d \d\d:\d\d:\d\d \S+ \d{4}", "DATE", out)
    # Into how many ticks the sessions fall is a matter of the moment.
    return sorted(set(re.sub(r"-?\d+(\.\d+)?", "N", out).split("\n")))


def ask(port):
    a, b = Session(port, timeout=20000), Session(port, timeout=20000)
    a.call("create", create_body("/w", b"x"))
    a.call("create", create_body("/w/e", b"", flags=1))
    b.call("create", create_body("/w/f", b"", flags=1))
    for session in (a, b):
        session.call("getData", text("/w") + b"\1")
        session.call("getChildren", text("/w") + b"\1")
        session.call("addWatch", text("/elsewhere") + i32(1))
    for n in range(200):
        b.call("setData", text("/w/e") + buf(b"%d" % n) + i32(-1))
    answers = {}
    for word in WORDS:
        try:
            answers[word] = shape(four_letter_word(port, word))
        except ConnectionError:
            answers[word] = "reset"
    return answers


def main(binary=None):
    c = Checks("words")
    with Server("java") as java, Server("oxkeeper", binary=binary) as oxkeeper:
        expected, found = ask(java.port), ask(oxkeeper.port)
    for word in WORDS:
        c.equal(found[word], expected[word], word)
    with Server("oxkeeper", options={"4lw.commands.whitelist": "ruok"}, binary=binary) as closed:
        refused = "stat is not executed because it is not in the whitelist.\n"
        c.equal(four_letter_word(closed.port, "stat"), refused, "a word that is not in the whitelist")
        c.equal(four_letter_word(closed.port, "ruok"), "imok", "one that is")
    c.report()


if __name__ == "__main__":
    main(*sys.argv[1:])
