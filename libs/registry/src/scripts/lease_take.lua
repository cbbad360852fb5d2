-- Takes a lease that nobody holds, as pending, or renews what the owner holds already.
-- KEYS: the lease. ARGV: owner, token of this acquisition, time to live in ms.
-- Answers the epoch of a renewed lease, '' for a pending one, false while somebody else holds it.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if held[1] and held[1] ~= ARGV[1] then
    return false
end
if not held[2] then
    -- A pending acquisition of the same owner is overtaken: its token is gone, so it cannot be confirmed.
    redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return held[2] or ''
