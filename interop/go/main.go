// What go-zookeeper's client does against a ZooKeeper.
package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

var passed int

func check(fact bool, what string) {
	if !fact {
		fmt.Fprintln(os.Stderr, "go:", what)
		os.Exit(1)
	}
	passed++
}

type quiet struct{}

func (quiet) Printf(string, ...interface{}) {}

func connect(at string) *zk.Conn {
	conn, events, err := zk.Connect([]string{at}, 10*time.Second, zk.WithLogger(quiet{}))
	check(err == nil, "connect")
	for event := range events {
		if event.State == zk.StateHasSession {
			break
		}
	}
	return conn
}

func await(events <-chan zk.Event, kind zk.EventType, what string) {
	select {
	case event := <-events:
		check(event.Type == kind, what)
	case <-time.After(15 * time.Second):
		check(false, what+": not within 15 s")
	}
}

func main() {
	a, b := connect(os.Args[1]), connect(os.Args[1])
	open := zk.WorldACL(zk.PermAll)
	path, err := a.Create("/go", []byte("1"), 0, open)
	check(err == nil && path == "/go", "create")
	_, err = a.Create("/go", nil, 0, open)
	check(err == zk.ErrNodeExists, "create again")
	path, err = a.Create("/go/s", nil, zk.FlagSequence|zk.FlagEphemeral, open)
	check(err == nil && path == "/go/s0000000000", "sequence")
	data, stat, changed, err := b.GetW("/go")
	check(err == nil && string(data) == "1" && stat.NumChildren == 1, "get")
	_, _, children, err := b.ChildrenW("/go")
	check(err == nil, "children")
	_, _, born, err := b.ExistsW("/go/later")
	check(err == nil, "exists on nothing")
	stat, err = a.Set("/go", []byte("2"), 0)
	check(err == nil && stat.Version == 1, "set")
	await(changed, zk.EventNodeDataChanged, "data watch")
	_, err = a.Create("/go/later", nil, 0, open)
	check(err == nil, "create later")
	await(children, zk.EventNodeChildrenChanged, "child watch")
	await(born, zk.EventNodeCreated, "exists watch")
	_, err = a.Set("/go", nil, 0)
	check(err == zk.ErrBadVersion, "set an old version")
	check(a.Delete("/go", -1) == zk.ErrNotEmpty, "delete a parent")
	results, err := a.Multi(
		&zk.CreateRequest{Path: "/go/m", Acl: open},
		&zk.SetDataRequest{Path: "/go/m", Data: []byte("x"), Version: 0},
		&zk.CheckVersionRequest{Path: "/go/m", Version: 1},
		&zk.DeleteRequest{Path: "/go/m", Version: -1})
	check(err == nil && len(results) == 4 && results[1].Stat.Version == 1, "multi")
	_, err = a.Multi(&zk.SetDataRequest{Path: "/go", Version: -1}, &zk.DeleteRequest{Path: "/nope", Version: -1})
	check(err == zk.ErrNoNode, "a multi that fails")
	check(a.AddAuth("digest", []byte("u:p")) == nil, "add auth")
	_, err = a.Create("/go/acl", nil, 0, zk.DigestACL(zk.PermAll, "u", "p"))
	check(err == nil, "a list of its own")
	_, _, err = b.Get("/go/acl")
	check(err == zk.ErrNoAuth, "no rights")
	lists, _, err := a.GetACL("/go/acl")
	check(err == nil && lists[0].ID == "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=", "get ACL")
	_, err = a.Sync("/go")
	check(err == nil, "sync")
	path, err = a.CreateProtectedEphemeralSequential("/go/p-", nil, open)
	check(err == nil && path != "", "protected")

	var wg sync.WaitGroup
	for n := 0; n < 200; n++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := b.Create("/go/q-", nil, zk.FlagSequence, open)
			if err != nil {
				panic(err)
			}
		}()
	}
	wg.Wait()
	names, _, err := a.Children("/go")
	check(err == nil && len(names) == 204, "200 creates at once")
	first, second := zk.NewLock(a, "/go-lock", open), zk.NewLock(b, "/go-lock", open)
	check(first.Lock() == nil, "lock")
	got := make(chan error, 1)
	go func() { got <- second.Lock() }()
	check(first.Unlock() == nil && <-got == nil && second.Unlock() == nil, "lock passes on")
	_, _, gone, err := b.ExistsW("/go/s0000000000")
	check(err == nil, "watch an ephemeral")
	a.Close()
	await(gone, zk.EventNodeDeleted, "closing takes ephemerals along")
	b.Close()
	fmt.Printf("go: %d checks passed\n", passed)
}
