"""Java's own shell, zkCli of 3.9.5: its commands and what it prints."""
import re
import subprocess
import sys

from servers import PEERS, ROOT, Checks

SCRIPT = """create /z one
create /z two
create -s /z/s- x
create -e /z/e y
create -c /z/c
create -t 100000 /z/t z
ls /z
ls -s /nope
get /z
get -s /z
set -s /z three
set -v 77 /z four
stat /z
delete /z
getAcl /z
addauth digest alice:secret
create /z/acl d auth::cdrwa
getAcl /z/acl
whoami
setAcl /z/acl world:anyone:r
getEphemerals /z
getAllChildrenNumber /z
sync /z
setquota -n 100 /z
listquota /z
delquota -n /z
config
addWatch /z
create /z/watched
removewatches /z
ls -R /z
deleteall /z
ls /
nonsense
quit
"""
EXPECTED = """Created /z
Node already exists: /z
Created /z/s-0000000000
Created /z/e
Created /z/c
Created /z/t
[c, e, s-0000000000, t]
Node does not exist: /nope
one
numChildren = 4
dataVersion = 1
version No is not valid : /z
dataLength = 5
Node not empty: /z
'world,'anyone
: cdrwa
Created /z/acl
'digest,'alice:aYXlLOpEooaV1cRAvUL1fp9Qt7E=
digest: alice
[/z/e]
Sync is OK
Output quota for /z count=100,bytes=-1=;byteHardLimit=-1;countHardLimit=-1
Output stat for /z count=6,bytes=9
WatchedEvent state:SyncConnected type:NodeCreated path:/z/watched
/z/s-0000000000
[zookeeper]
Command not found: Command not found nonsense""".split("\n")


def main(port):
    c = Checks("zkCli")
    command = ["java", "-Xmx128m", f"-Dlogback.configurationFile={ROOT}/interop/java/logback.xml",
               "-Dzookeeper.log.level=ERROR", "-cp", f"{PEERS}/jars/*", "org.apache.zookeeper.ZooKeeperMain",
               "-server", f"127.0.0.1:{port}"]
    done = subprocess.run(command, input=SCRIPT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90)
    text = re.sub(r"\[zk: [^]]*\] ", "", done.stdout)
    for line in EXPECTED:
        c.true(line in text, f"the line {line!r} is in its output:\n{text}\n")
    one = subprocess.run([*command, "get", "/nope"], capture_output=True, text=True, timeout=60)
    c.equal(one.returncode, 1, "exit status of a failed command")
    one = subprocess.run([*command, "ls", "/"], capture_output=True, text=True, timeout=60)
    c.equal((one.returncode, "[zookeeper]" in one.stdout), (0, True), "a command alone")
    c.report()


if __name__ == "__main__":
    main(int(sys.argv[1]))
