-- Takes back what was spent of a limit and not used.
-- KEYS: as in limit_lease. ARGV: events a window, the window in µs, how many.
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000000 + time[2]
local known = tonumber(redis.call('GET', KEYS[1]) or now)
local full_at = known - tonumber(ARGV[3]) * tonumber(ARGV[2]) / tonumber(ARGV[1])
if full_at > now then
    redis.call('SET', KEYS[1], string.format('%.17g', full_at), 'PX', math.ceil((full_at - now) / 1000))
else
    redis.call('DEL', KEYS[1])
end
return 1
