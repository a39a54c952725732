#!/usr/bin/env bash
# Brings everything that Oxkeeper is compared with onto a Debian machine, into target/interop. Run as root; quick
# when it has run before. Anything that cannot be had is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
to=$PWD/target/interop
mkdir -p "$to"

packages=(libzookeeper-mt-dev gcc python3-venv)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ ! -x "$to/venv/bin/python" ] || ! "$to/venv/bin/python" -c 'import kazoo' 2>/dev/null; then
    python3 -m venv "$to/venv"
    "$to/venv/bin/pip" install -q --disable-pip-version-check kazoo==2.11.0
fi

if [ ! -f "$to/jars/.complete" ]; then
    mvn -q -B -f interop/java/pom.xml dependency:copy-dependencies -DoutputDirectory="$to/jars"
    touch "$to/jars/.complete"
fi
mkdir -p "$to/classes"
javac -Xlint:-options -cp "$to/jars/*" -d "$to/classes" interop/java/*.java

mkdir -p "$to/node"
cp interop/node/package.json interop/node/package-lock.json interop/node/suite.js "$to/node/"
[ -d "$to/node/node_modules" ] || (cd "$to/node" && npm ci --silent --no-audit --no-fund)

(cd interop/go && go build -o "$to/go-suite" .)
gcc -DTHREADED -O1 -Wall -Wextra -o "$to/c-suite" interop/c/suite.c -lzookeeper_mt -lpthread
gcc -O1 -Wall -Wextra -shared -fPIC -o "$to/faultdisk.so" interop/c/faultdisk.c -ldl -lpthread
