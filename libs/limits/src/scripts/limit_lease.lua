-- Spends of a limit, by the generic cell rate algorithm.
-- KEYS: when everything spent will have come back, in µs since 2025 of this server's clock: as near to 0 as it can be,
-- because a number has 53 bits. ARGV: events a window, the window in µs, cost, what is wanted to spare.
-- Answers: 1 if it is spent, what was spent to spare, what is left, µs until the same would be allowed, µs until
-- everything has come back.
local limit, window, cost, spare = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local event = window / limit
-- What the fractions of a microsecond lose or win must not decide.
local whole = window + 0.5

local known = tonumber(redis.call('GET', KEYS[1]) or now)
-- A clock that went back, or a window that became shorter, must not lock anybody out for longer than the window.
local full_at = math.min(math.max(known, now), now + window)
local after = full_at + cost * event
local wait = after - now - whole
if wait <= 0 then
    full_at = after
    spare = math.min(spare, math.floor((now + whole - full_at) / event / 4))
    full_at = full_at + spare * event
    if full_at > now then
        redis.call('SET', KEYS[1], string.format('%.17g', full_at), 'PX', math.ceil((full_at - now) / 1000))
    end
    wait = 0
    cost = 1
else
    spare = 0
    cost = 0
end
local left = math.min(limit, math.floor((now + whole - full_at) / event))
return { cost, spare, left, math.ceil(wait), math.ceil(full_at - now) }
