-- A snapshot begins: ARGV is gateway, the mark under which its parts come, now. Until the last part no batch
-- follows. Answers with the sockets that the gateway has.
local gateway, mark, now = ARGV[1], ARGV[2], ARGV[3]
call('HSET', NUMBERS, gateway, mark)
call('ZADD', GATEWAYS, 'GT', now, gateway)
call('ZREM', DEAD, gateway)
return call('HKEYS', SOCKETS .. gateway)
