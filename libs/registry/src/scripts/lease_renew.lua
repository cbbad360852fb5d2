-- KEYS: the lease. ARGV: owner, epoch, time to live in ms. Answers 1, or 0 when it is not held under that epoch.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
