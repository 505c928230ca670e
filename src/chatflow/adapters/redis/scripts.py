"""Lua that Redis runs as one step each.

A tag's version is a stamp that is never given twice: it is made up by the reader that misses it, and deleting it is
all that an invalidation does. So a stamp that was lost, by a restart, an eviction or its age, matches nothing that was
stored. The first version of every list is that of *everything*; deleting it ends every value there is.

A value is a hash: ``s``, the stamps it was stored under; ``at``, the server's time in ms; ``v``, the bytes.
"""

import hashlib

import attrs


@attrs.frozen
class Script:
    """One step, known to a server by its digest once it has seen the source."""

    source: str
    digest: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


GET = Script("""
-- KEYS: value, versions... ARGV: a stamp nobody has, ms that a version lives
local stamps = redis.call('MGET', unpack(KEYS, 2))
for i = 1, #KEYS - 1 do
    if not stamps[i] then
        stamps[i] = ARGV[1] .. '.' .. i
        redis.call('SET', KEYS[i + 1], stamps[i], 'PX', ARGV[2])
    end
end
local stamped = table.concat(stamps, ' ')
local held = redis.call('HMGET', KEYS[1], 's', 'at', 'v')
if held[1] ~= stamped then
    return {stamped}
end
local now = redis.call('TIME')
return {stamped, held[3], now[1] * 1000 + math.floor(now[2] / 1000) - held[2]}
""")

PUT = Script("""
-- KEYS: value, versions... ARGV: stamps, bytes, ms that it lives, ms that a version lives
local stamps = redis.call('MGET', unpack(KEYS, 2))
for i = 1, #KEYS - 1 do
    if not stamps[i] then
        return 0
    end
end
if table.concat(stamps, ' ') ~= ARGV[1] then
    return 0
end
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 's', ARGV[1], 'at', at, 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 2, #KEYS do
    redis.call('PEXPIRE', KEYS[i], ARGV[4])
end
return 1
""")

FORGET = Script("""
-- KEYS: versions... ARGV: channel, what listeners hear
redis.call('DEL', unpack(KEYS))
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
""")

RELEASE = Script("""
-- KEYS: lease ARGV: token
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
""")

REPORT = Script("""
-- KEYS: who spoke when, what they said ARGV: who, what, ms that it counts
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at - ARGV[3])
for _, who in ipairs(silent) do
    redis.call('ZREM', KEYS[1], who)
    redis.call('HDEL', KEYS[2], who)
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
""")

SNAPSHOTS = Script("""
-- KEYS: who spoke when, what they said ARGV: ms that it counts
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local said = {}
for _, who in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. (at - ARGV[1]), '+inf')) do
    said[#said + 1] = redis.call('HGET', KEYS[2], who)
end
return said
""")
