-- Hands a pending lease out under its epoch, if this very acquisition holds it still.
-- KEYS: the lease. ARGV: token of the acquisition, epoch, time to live in ms. Answers 1 or 0.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
