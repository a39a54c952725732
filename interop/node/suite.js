// What node-zookeeper-client does against a ZooKeeper.
const zookeeper = require('node-zookeeper-client');

let passed = 0;
function check(fact, what) {
    if (!fact) {
        console.error(`node: ${what}`);
        process.exit(1);
    }
    passed += 1;
}
setTimeout(() => check(false, 'not within 60 s'), 60000).unref();

function connect(at) {
    return new Promise((resolve) => {
        const client = zookeeper.createClient(at, { sessionTimeout: 10000 });
        client.once('connected', () => resolve(client));
        client.connect();
    });
}

// The result of a call, or its error's name.
function call(client, method, ...args) {
    return new Promise((resolve) => {
        client[method](...args, (error, ...values) => resolve(error ? error.name : values));
    });
}

async function main(at) {
    const [a, b] = [await connect(at), await connect(at)];
    check((await call(a, 'create', '/n', Buffer.from('1')))[0] === '/n', 'create');
    check(await call(a, 'create', '/n') === 'NODE_EXISTS', 'create again');
    const mode = zookeeper.CreateMode.EPHEMERAL_SEQUENTIAL;
    check((await call(a, 'create', '/n/s-', Buffer.alloc(0), mode))[0] === '/n/s-0000000000', 'sequence');
    const changed = new Promise((resolve) => { b.getData('/n', resolve, () => {}); });
    const [data, stat] = await call(b, 'getData', '/n');
    check(data.toString() === '1' && stat.numChildren === 1, 'getData');
    check((await call(a, 'setData', '/n', Buffer.from('2'), 0))[0].version === 1, 'setData');
    check((await changed).getName() === 'NODE_DATA_CHANGED', 'data watch');
    check(await call(a, 'setData', '/n', Buffer.from('3'), 0) === 'BAD_VERSION', 'setData of an old version');
    const children = new Promise((resolve) => { b.getChildren('/n', resolve, () => {}); });
    check((await call(b, 'getChildren', '/n'))[0].length === 1, 'getChildren');
    await call(a, 'create', '/n/c');
    check((await children).getName() === 'NODE_CHILDREN_CHANGED', 'child watch');
    check((await call(a, 'exists', '/nope'))[0] === null, 'exists on nothing');
    check(await call(a, 'remove', '/n', -1) === 'NOT_EMPTY', 'remove a parent');
    check(await call(a, 'remove', '/nope', -1) === 'NO_NODE', 'remove nothing');
    const done = await new Promise((resolve) => {
        a.transaction().create('/n/t', Buffer.from('x')).setData('/n/t', Buffer.from('y'), 0).check('/n/t', 1)
            .remove('/n/t', -1).commit((error, results) => resolve(error ? error.name : results));
    });
    check(done.length === 4, 'transaction');
    const failed = await new Promise((resolve) => {
        a.transaction().setData('/n', Buffer.from('z'), -1).remove('/nope', -1)
            .commit((error) => resolve(error && error.name));
    });
    check(failed === 'NO_NODE', 'a transaction that fails');
    check((await call(a, 'mkdirp', '/n/deep/er/est'))[0] === '/n/deep/er/est', 'mkdirp');
    a.addAuthInfo('digest', Buffer.from('u:p'));
    await call(a, 'create', '/n/acl', Buffer.alloc(0), zookeeper.ACL.CREATOR_ALL_ACL);
    check(await call(b, 'getData', '/n/acl') === 'NO_AUTH', 'no rights');
    check((await call(a, 'getACL', '/n/acl'))[0][0].id.id === 'u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=', 'getACL');
    const many = await Promise.all([...Array(200).keys()].map((n) => call(b, 'create', `/n/q${n}`)));
    check(many.every((result, n) => result[0] === `/n/q${n}`), '200 creates at once');
    const gone = new Promise((resolve) => { b.exists('/n/s-0000000000', resolve, () => {}); });
    await call(b, 'exists', '/n');
    a.close();
    check((await gone).getName() === 'NODE_DELETED', 'closing takes ephemerals along');
    b.close();
    console.log(`node: ${passed} checks passed`);
    process.exit(0);
}

main(process.argv[2]);
