-- Saves fields under an epoch, unless a newer epoch has saved before.
-- KEYS: the hash. ARGV: epoch, then field, value, field, value... Answers 1 when saved, else 0.
local saved = redis.call('HGET', KEYS[1], 'epoch')
local epoch = ARGV[1]
-- Decimal texts without leading zeros: a number of Lua is exact up to 2^53 only.
if saved and (#epoch < #saved or (#epoch == #saved and epoch < saved)) then
    return 0
end
redis.call('HSET', KEYS[1], 'epoch', unpack(ARGV))
return 1
