"""What Redis does in one step, so that a process that lost a stream without noticing can do no harm to it."""

# A member says that it is alive, and learns how many are. KEYS: members. ARGV: member, milliseconds that it counts.
JOIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 10)
return redis.call('ZCARD', KEYS[1])
"""

# KEYS: lease. ARGV: member, milliseconds. 1 when the lease is the member's and goes on.
RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: lease. ARGV: member.
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# KEYS: lease, stream. ARGV: member, group, reader, first id or '>', count, bytes after which no more are read. The
# entries; -1 without the lease. By a few at a time, since an entry may have megabytes.
READ = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local first, left, bytes, found = ARGV[4], tonumber(ARGV[5]), 0, {}
while left > 0 and bytes < tonumber(ARGV[6]) do
    local step = math.min(left, 8)
    local answer = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', step, 'STREAMS', KEYS[2], first)
    local entries = answer and answer[1][2] or {}
    for _, entry in ipairs(entries) do
        found[#found + 1] = entry
        for _, field in ipairs(entry[2] or {}) do bytes = bytes + #field end
    end
    if #entries < step then break end
    if first ~= '>' then first = entries[#entries][1] end
    left = left - #entries
end
return found
"""

# KEYS: lease, stream. ARGV: member, group, ids. -1 without the lease.
CONFIRM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
return redis.call('XACK', KEYS[2], ARGV[2], unpack(ARGV, 3))
"""
