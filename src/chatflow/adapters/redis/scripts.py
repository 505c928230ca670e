"""Lua scripts, each of which Redis runs as one step.

A tag's version is a stamp that is never used twice. The reader that finds none makes one up; an invalidation deletes
it. So a stamp that was lost, in a restart, to eviction or by age, matches no value stored under it. The first version
in every list is that of *everything*; deleting it ends all values.

A value is a hash: ``s``, the stamps it was stored under; ``at``, the server's time in ms; ``v``, the bytes.
"""

GET = """
-- KEYS: value, versions... ARGV: a fresh stamp, ms that a version lives
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
"""

PUT = """
-- KEYS: value, versions... ARGV: stamps, bytes, ms that the value lives, ms that a version lives
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
"""

INVALIDATE = """
-- KEYS: versions... ARGV: channel, the commit to publish
redis.call('DEL', unpack(KEYS))
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
"""

RELEASE = """
-- KEYS: lease ARGV: token
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""

REPORT = """
-- KEYS: times of reports, reports ARGV: instance, report, ms that a report counts
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
"""

SNAPSHOTS = """
-- KEYS: times of reports, reports ARGV: ms that a report counts
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local reports = {}
for _, who in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. (at - ARGV[1]), '+inf')) do
    reports[#reports + 1] = redis.call('HGET', KEYS[2], who)
end
return reports
"""
